"""The checks before each call, in C++.

``check.cpp`` does what :class:`bnfx.weights.changes.snapshot.Snapshot` does in Python, in one pass,
``watch.cpp`` is for :mod:`bnfx.direct.watched`, and ``finite.cpp`` for
:mod:`bnfx.inner.engines.finite`. :mod:`bnfx.native.cxx` compiles them once for each torch and
Python, in the background, and keeps the library on disk; :mod:`bnfx.native.loader` loads it.
Until it is there, and wherever it can't be, Python does the same work.
"""
