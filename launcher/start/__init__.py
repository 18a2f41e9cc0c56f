"""Starts the ranks of a run, follows their progress and explains how they ended."""
