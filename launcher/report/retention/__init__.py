"""What a run keeps of other skills, drawn: of one run, and of several."""
