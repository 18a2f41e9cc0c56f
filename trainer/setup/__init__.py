"""Decisions made once, when a run starts: precision, packing, micro-batch size, memory; and its CPU kernels."""
