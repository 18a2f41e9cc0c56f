"""What a model could do before it is fine-tuned: held-out rows of other skills, and who answers them."""
