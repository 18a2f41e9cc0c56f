"""Steps that are not to be trusted: non-finite numbers and loss spikes, and what follows from them."""
