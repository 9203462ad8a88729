"""Under which names operators of Python and attributes of tensors are known."""

from __future__ import annotations

import builtins
import operator

import pytest
import torch

from bnfx.passes.fx.facts.spelling import ATTRIBUTES, FUNCTIONS, IN_PLACE_OPERATORS


def test_augmented_assignments_write_and_no_other_operator_does() -> None:
    """Those that Python's documentation lists."""
    names = "add and concat floordiv lshift matmul mod mul or pow rshift sub truediv xor"
    expected = {getattr(operator, f"i{name}") for name in names.split()}
    assert expected == IN_PLACE_OPERATORS


@pytest.mark.parametrize("name", ["abs", "pow"])
def test_builtins_are_read_as_the_operators_of_their_name(name: str) -> None:
    assert FUNCTIONS[getattr(builtins, name)].facts is FUNCTIONS[getattr(torch, name)].facts


def test_attributes_are_what_is_not_called() -> None:
    assert {"T", "shape"} <= ATTRIBUTES.keys()
    called = [name for name in ATTRIBUTES if callable(getattr(torch.Tensor, name))]
    assert called == []
    assert not ATTRIBUTES.keys() & {"relu", "abs"}
