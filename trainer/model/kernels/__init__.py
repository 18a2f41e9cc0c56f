"""Fused kernels of other packages: which ones a run uses, and how they are put into a model."""
