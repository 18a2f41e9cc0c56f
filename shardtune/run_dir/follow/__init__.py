"""A run that is going on, as a viewer follows it: new events of metrics.jsonl, and what is kept of them."""
