"""How a model becomes a graph: captured on inputs by Dynamo, or traced symbolically without."""
