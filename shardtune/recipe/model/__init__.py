"""Keys of the `model` section with a grammar of their own."""
