"""What a step minimizes: the task's loss, alone or with the divergence from the pretrained model."""
