"""Rows: the files and data sets that a path stands for, and the rows in them, as their owner wrote them."""
