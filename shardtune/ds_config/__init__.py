"""The ds_config: which keys it may set, and how it is combined with the recipe."""
