"""What a terminal shows of a run: the numbers of a step, and the results."""
