"""The commands that need torch; each runs in its own process."""
