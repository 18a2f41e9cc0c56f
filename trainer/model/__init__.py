"""The pretrained model: loading it, its adapters, the loss of its targets."""
