"""Arrays that are kept while their expressions stand somewhere."""

from __future__ import annotations

import numpy as np

from bnfx.passes.algebra import Source
from bnfx.passes.algebra.expressions.stored_arrays import StoredArrays

A, B, C = (Source(name, (2,), "float32") for name in "abc")


def _stored() -> StoredArrays:
    """Both arrays stand at one place."""
    stored = StoredArrays()
    for source in (A, B):
        stored.add(source, "float32", np.ones(2))
    stored.put("place", (A, B))
    return stored


def test_what_stands_there_no_more_is_not_kept() -> None:
    stored = _stored()
    stored.put("place", (B, None))
    assert (stored.get(A, "float32"), len(stored)) == (None, 1)
    stored.put("place", ())
    assert len(stored) == 0


def test_what_stands_at_another_place_is_kept() -> None:
    stored = _stored()
    stored.put("other", (C,))
    assert len(stored) == 2


def test_only_what_is_asked_for_is_kept() -> None:
    stored = _stored()
    stored.keep_only({B, C, None})
    assert stored.get(A, "float32") is None
    assert stored.get(B, "float32") is not None
