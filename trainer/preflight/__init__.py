"""Checks of the machines by their ranks, before the model is loaded."""
