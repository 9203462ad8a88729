"""Which forms are tried, in which order, and what is said of those that are not."""

from __future__ import annotations

import pytest
from folding import FREEZES, PACKS, PLAIN

from bnfx.inner.base import Inner
from bnfx.weights.choice import described, forms

NO_PACK = "only Inductor takes packed weights"
NO_GAIN = "the inner compiler gains nothing from constants"


@pytest.mark.parametrize(
    ("inner", "wanted", "tried", "reasons"),
    [
        (PACKS, "live", ["packed", "plain"], []),
        (PACKS, "frozen", ["frozen", "plain"], []),
        (PACKS, "auto", ["packed", "frozen", "plain"], []),
        (FREEZES, "live", ["plain"], [NO_PACK]),
        (FREEZES, "frozen", ["frozen", "plain"], []),
        (FREEZES, "auto", ["frozen", "plain"], [NO_PACK]),
        (PLAIN, "live", ["plain"], [NO_PACK]),
        (PLAIN, "frozen", ["plain"], [NO_GAIN]),
        (PLAIN, "auto", ["plain"], [NO_PACK]),
    ],
)
def test_what_is_tried(inner: Inner, wanted: str, tried: list[str], reasons: list[str]) -> None:
    why: list[str] = []
    assert forms(wanted, "", inner, why) == tried
    assert why == reasons
    why = []
    assert forms(wanted, "its parameters are odd", inner, why) == ["plain"]
    assert why == ["its parameters are odd"]


def test_what_is_said() -> None:
    assert described("frozen", []) == ("frozen", "constants")
    assert described("packed", ["a", "b"]) == ("live", "inputs, packed for oneDNN; a; b")
    assert described("plain", []) == ("live", "inputs")
