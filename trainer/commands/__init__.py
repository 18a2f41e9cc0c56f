"""The commands that need torch, each run in a process of its own."""
