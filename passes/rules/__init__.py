"""The rewrite rules, one a file; :mod:`bnfx.passes.rules.ordered` has their order."""
