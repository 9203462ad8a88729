"""Relay, TVM's IR before 0.20: the way to the neutral graph, and back. No torch.

Kept to what TVM 0.8 to 0.19 have in common: ``relay.Call``, ``Function``, ``TupleGetItem`` and so
on, ``checked_type`` after ``InferType``, operator attributes by name, and the ``relay.nn``
functions.
"""
