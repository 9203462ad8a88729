"""Relax, TVM's IR from 0.20 on: the way to the neutral graph, and back. No torch.

apache-tvm 0.25, 0.26 and 0.27; what they call by different names is in
:mod:`bnfx.passes.relax.compat`, and nowhere else.
"""
