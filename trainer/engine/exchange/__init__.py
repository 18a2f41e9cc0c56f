"""What the ranks send each other in a step, in which precision, and how much at a time."""
