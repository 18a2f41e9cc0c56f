"""The recipe: what it may say, how it is read, and how every mistake in it is reported at once."""
