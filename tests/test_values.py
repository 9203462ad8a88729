"""The numbers behind the symbols: what is sound to store, what is asked twice, and what held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bnfx.passes.algebra import BroadcastAffine, Dense, Scalar, Source
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.values import Values

ZERO = Scalar(0.0)
A, B, P, Q = (Source(name, (2,), "float32") for name in "abpq")
W, V = (Dense(Source(name, (2, 2), "float32"), None) for name in "wv")
TINY = float(np.finfo(np.float32).smallest_normal)


def _arrays(**changed: Any) -> dict[str, Any]:
    arrays = {name: np.ones(2) for name in "abpq"} | {name: np.ones((2, 2)) for name in "wv"}
    return arrays | {name: np.asarray(value) for name, value in changed.items()}


def _values(arrays: dict[str, Any], **options: Any) -> Values:
    return Values(lambda source: arrays[source.name], np.zeros(()), **options)


def _ask(values: Values) -> list[Refusal]:
    """Two maps, two operators and two signs."""
    found = [*values.refuse_affine(BroadcastAffine(A, ZERO))]
    found += values.refuse_affine(BroadcastAffine(B, ZERO), "float32")
    for operator in (W, V):
        found += values.refuse_operator(operator, ("float32",))
    values.is_nonnegative(P)
    values.is_nonnegative(Q)
    return found


def test_conditions_are_what_was_asked_and_held() -> None:
    values = _values(_arrays())
    assert not _ask(values)
    found = values.conditions({V.weight})
    assert [affine.scale for affine, _ in found.affines] == [A, B]
    assert [operator for operator, _ in found.operators] == [V], "the other is on the way"
    assert found.nonnegative == (P, Q)


def test_conditions_leave_out_what_did_not_hold() -> None:
    broken = _arrays(a=[np.nan, 1], w=np.full((2, 2), np.inf), p=[-1, 1])
    values = _values(broken)
    assert _ask(values)
    found = values.conditions({W.weight, V.weight})
    assert [affine.scale for affine, _ in found.affines] == [B]
    assert [operator for operator, _ in found.operators] == [V]
    assert found.nonnegative == (Q,)


@pytest.mark.parametrize("name", ["a", "b", "w", "v", "p", "q", None])
def test_conditions_hold_until_one_of_them_does_not(name: str | None) -> None:
    values = _values(_arrays())
    _ask(values)
    found = values.conditions({W.weight, V.weight})
    arrays = _arrays()
    if name is not None:
        arrays[name] = -arrays[name] if name in "pq" else arrays[name] * np.nan
    assert found.hold(_values(arrays)) is (name is None)


def test_nothing_is_read_to_answer_again() -> None:
    reads: list[str] = []
    arrays = _arrays()

    def read(source: Source) -> Any:
        reads.append(source.name)
        return arrays[source.name]

    values = Values(read, np.zeros(()))
    _ask(values)
    array = values.stored(A + B, "float16")
    reads.clear()
    _ask(values)
    assert values.stored(A + B, "float16") is array
    assert reads == []


def test_a_source_that_is_not_sound_is_named_once_for_each_map() -> None:
    """Infinity may be gone from the map, as one divided by it is 0."""
    values = _values(_arrays(a=[np.inf, 1]))
    named = Refusal(Code.NON_FINITE, "a holds NaN or infinity")
    for affine in (BroadcastAffine(1.0 / A, 1.0 / A), BroadcastAffine(2.0 / A, ZERO)):
        assert list(values.refuse_affine(affine)) == [named]


def test_constants_are_made_on_the_device_of_the_sources() -> None:
    source = torch.empty(2, dtype=torch.float64, device="meta")
    values = Values(lambda _: source, torch.zeros(()))
    values.exact(A)
    assert list(values._evaluators) == [source.device]


@pytest.mark.parametrize(("dtype", "refused"), [("float16", True), ("float32", False)])
def test_numbers_that_will_change_are_stored_in_no_float16(dtype: str, refused: bool) -> None:
    assert not list(_values(_arrays()).refuse_operator(W, (dtype,)))
    codes = [r.code for r in _values(_arrays(), fixed=False).refuse_operator(W, (dtype,))]
    assert codes == ([Code.OVERFLOW] if refused else [])


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize(
    ("weight", "bias", "codes"),
    [
        (1.0, 1.0, []),
        (0.0, 0.0, []),
        (TINY, 0.0, []),
        (TINY / 2, 0.0, [Code.UNDERFLOW]),
        (1.0, TINY / 2, []),
        (np.nan, 1.0, [Code.NON_FINITE]),
        (1e39, -1e39, [Code.OVERFLOW] * 2),
    ],
)
def test_weights_that_can_be_stored(
    weight: float, bias: float, codes: list[Code], measured: bool
) -> None:
    """Whether rounding is measured or not; a bias may underflow, as it is added to larger ones."""
    values = _values(_arrays(w=np.full((2, 2), weight), b=[bias, bias]), measured=measured)
    found = values.refuse_operator(Dense(W.weight, B), ("float32",))
    assert [refusal.code for refusal in found] == codes
