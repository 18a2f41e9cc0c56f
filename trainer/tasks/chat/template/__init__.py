"""What a chat template writes: prompts and replies, as the model will see them."""
