"""``bnfx.compile``: calls of a compiled model that go straight to its graph. ADR 050.

Torch's own machinery has the first calls. From what Dynamo compiled, :mod:`.straight_code` reads
what the graph is called with and what becomes of its outputs, and :mod:`.guard_tree` which of
Dynamo's guards are about nothing but assignments in the model. Those are replaced by
:mod:`.watched`, in C++, which sees every assignment; the others are evaluated as ever.
"""
