"""What is measured during a training, and where it is reported."""
