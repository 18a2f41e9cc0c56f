"""What the metrics of an evaluation mean, whichever task has them: which values are better, how sure they are."""
