"""Keys and arguments of other tools, and their counterparts in a recipe."""
