"""What follows the weights in memory is not saved, and says what is."""

from __future__ import annotations

import pytest
from folding import PLAIN, made

from bnfx.errors import BnfxError
from bnfx.inner.unsaved import Unsaved
from bnfx.weights.function import FoldedFunction


def test_it_is_neither_saved_nor_read() -> None:
    each = made(PLAIN)
    with pytest.raises(BnfxError, match=r"use bnfx\.export\.compile_package"):
        FoldedFunction.serialize_compile_artifacts(each.function)
    with pytest.raises(BnfxError, match="cannot be saved"):
        FoldedFunction.deserialize_compile_artifacts(b"")


def test_a_kind_that_cannot_be_called() -> None:
    with pytest.raises(NotImplementedError):
        Unsaved()()
