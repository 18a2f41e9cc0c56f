"""Distributed supervised fine-tuning of pretrained transformers, one recipe a job.

This level is the contract between the launcher and the ranks: what a recipe says, which rows a path stands for, and
what a run directory holds. It imports neither of them, and no torch.
"""
