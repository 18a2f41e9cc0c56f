"""Runs that exist: their status, their logs, their sweeps."""
