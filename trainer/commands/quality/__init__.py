"""Commands that measure how good models are."""
