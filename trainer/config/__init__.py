"""The recipe: what it may say, how it is read, and how it meets a ds_config."""
