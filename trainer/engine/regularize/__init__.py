"""What an update does beside the gradient of the loss: rates by layer, and what holds weights near pretrained ones."""
