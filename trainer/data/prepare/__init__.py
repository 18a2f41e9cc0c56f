"""Rows -> encoded examples on disk, once a cluster, before any process group exists."""
