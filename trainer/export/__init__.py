"""Exports of checkpoints as Hugging Face folders."""
