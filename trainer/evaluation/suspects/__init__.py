"""Rows that look wrong to a model: suspected label errors, and rows of which it can make nothing."""
