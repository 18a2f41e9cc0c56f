"""metrics.jsonl as it grows: its new lines, and the events in them."""
