"""From rows to the micro-batches of each rank."""
