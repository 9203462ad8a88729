"""``bnfx.fold`` and ``bnfx.explain``: from a model to its folded form."""
