"""What a run directory tells of the model beside dev and test: what it retains, and its worst rows. Torch-free."""
