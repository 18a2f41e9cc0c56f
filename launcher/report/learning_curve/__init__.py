"""Would more data help: the errors of runs on fractions of the training rows -> a power law, and what it says."""
