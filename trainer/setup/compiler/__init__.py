"""torch.compile (engine.compile): what is compiled, with which shapes, and how often."""
