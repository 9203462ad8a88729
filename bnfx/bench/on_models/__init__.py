"""A model on every engine that is installed: ``bnfx bench MODEL``, and what ``bnfx demo`` times."""
