"""Weights in few bits: the base of QLoRA."""
