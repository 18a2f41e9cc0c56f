"""Commands that measure for the planner."""
