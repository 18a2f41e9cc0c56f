"""Starting the ranks of a run, following them, and explaining how they ended."""
