"""What a model's code asks of tensors and modes while it is captured, and whether that matters."""
