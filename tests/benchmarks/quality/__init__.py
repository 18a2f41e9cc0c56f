"""The comparison of quality with transformers.Trainer."""
