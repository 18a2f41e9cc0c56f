"""The commands of the command line: their arguments, and which module does the work."""
