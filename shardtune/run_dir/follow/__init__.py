"""A run that is going on, as a viewer follows it: what is kept of its events."""
