"""Code of a kind that cannot get at a layer but by its name."""
