"""Commands that use a trained model: how it is opened, on which devices, and how ranks share the rows."""
