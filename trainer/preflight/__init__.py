"""What ranks find out about their machines before the model is loaded."""
