"""Rows of one split that are nearly the same as rows of another one."""
