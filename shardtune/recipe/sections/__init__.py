"""The sections of a recipe that are not about the task or the model, a module for each."""
