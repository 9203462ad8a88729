"""The check before each call, in C++.

``check.cpp`` does what :class:`bnfx.weights.changes.snapshot.Snapshot` does in Python, in one pass.
:mod:`bnfx.native.cxx` compiles it once for each torch and Python, in the background, and keeps it
on disk; :mod:`bnfx.native.loader` loads it. Until it is there, and wherever it can't be, Python
does the same work.
"""
