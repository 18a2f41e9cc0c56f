"""Distributed supervised fine-tuning of pretrained transformers, one recipe per job.

This level is the contract between launcher and ranks: the recipe, the rows that a path stands for, and the run
directory. It imports neither launcher nor trainer, and not torch.
"""
