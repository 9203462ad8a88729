"""Weights packed for oneDNN that are inputs of Inductor's code."""
