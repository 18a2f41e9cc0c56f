"""Evaluates what the model could do before."""
