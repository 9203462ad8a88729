"""Rows that ranks exchange say which layer they are of."""
