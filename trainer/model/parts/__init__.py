"""The parts of a pretrained model, whatever its architecture: embeddings, layers, what is new, what is frozen."""
