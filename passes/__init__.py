"""The rewrites of bnfx: algebra, neutral graph, rules, pipeline, and one folder an IR.

This package is installed as ``bnfx.passes`` and imports nothing else of bnfx, so that every
compiler plugin (and a user with no torch, or no TVM) can stand on it alone.
"""

if __name__ != "bnfx.passes":
    raise ImportError(
        f"this package is 'bnfx.passes', but it was imported as {__name__!r}: "
        "a checkout's root is on sys.path. Write 'import bnfx.passes'."
    )
