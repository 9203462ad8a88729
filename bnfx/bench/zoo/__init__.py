"""The zoo: every model through bnfx, and what became of it."""
