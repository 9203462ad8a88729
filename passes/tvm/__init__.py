"""The way from Relax and Relay to the neutral graph, and back: all that the two share. No TVM here.

An IR brings a :class:`~bnfx.passes.tvm.dialect.Dialect`, its tables; a
:class:`~bnfx.passes.tvm.dataflow.Dataflow`, the values of a function; and an
:class:`~bnfx.passes.tvm.emitter.Emitter`, which writes its calls.
"""
