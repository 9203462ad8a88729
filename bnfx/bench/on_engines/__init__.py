"""Engines for inference on a CPU, each in a process of its own: see :mod:`bnfx.bench.engines`."""
