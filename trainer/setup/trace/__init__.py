"""The memory of a step, traced without values: the check of what the planner computes."""
