"""What the code of a model does with its modules, read from its source."""
