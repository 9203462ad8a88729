"""Neutral graph -> fx graph: the nodes, and the tensors that they need."""
