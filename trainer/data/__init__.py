"""From files to batches: rows, examples, the order they are trained in, and each rank's share."""
