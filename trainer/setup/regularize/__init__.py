"""What is found out of the pretrained model before it is trained, to hold its weights by."""
