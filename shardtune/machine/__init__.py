"""What this machine has: its GPUs, and the limits that its processes run under. Torch-free."""
