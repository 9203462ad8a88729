"""The calls of fx graphs in one normal form, whatever way they were written."""
