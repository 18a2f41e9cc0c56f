"""Frozen linear layers whose weights are held in 4 or 8 bits (model.lora.quantize_base)."""
