"""The memory of a rank's device and of its machine: how much is used, how a lack of it is recognized."""
