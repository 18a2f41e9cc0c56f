"""What fine-tuning makes two models forget, and what keeps it: the figures of docs/forgetting.md."""
