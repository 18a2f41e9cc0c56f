"""What was measured on a machine, and the plans that follow from it. Pure."""
