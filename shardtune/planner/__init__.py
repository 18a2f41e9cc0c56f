"""What a run will need, foreseen from its recipe and the machine; torch-free."""
