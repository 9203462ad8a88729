"""Which tensors of an fx graph are parameters, or are computed from parameters alone."""
