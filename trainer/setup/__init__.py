"""What is settled once, when a run starts: precision, packing, the micro-batch, memory."""
