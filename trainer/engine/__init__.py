"""How a step is computed: by DeepSpeed or replicated, and what of it a checkpoint holds."""
