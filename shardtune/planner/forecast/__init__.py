"""What a recipe will need on some machines: memory, time, and what that costs."""
