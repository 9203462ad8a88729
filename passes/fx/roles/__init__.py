"""Normalised calls -> the roles of the neutral graph."""
