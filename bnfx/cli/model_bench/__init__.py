"""``bnfx bench MODEL``: a user's own model, on every engine that is installed."""
