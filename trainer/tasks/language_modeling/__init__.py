"""Language modeling, causal and masked."""
