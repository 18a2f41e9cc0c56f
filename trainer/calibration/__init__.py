"""Measures a machine for the planner: how long its operations, engines and links take, on all ranks at once."""
