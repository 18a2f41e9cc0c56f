"""A rank and its GPU: which one it is, and copies to it and from it that nobody waits for."""
