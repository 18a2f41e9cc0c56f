"""What the dashboard reads of run directories, and keeps in memory."""
