"""Rows -> encoded examples on disk, once per cluster, before any process group exists."""
