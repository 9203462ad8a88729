"""Dilated pools: a window may step over an input that is smaller than its steps."""

from __future__ import annotations

from collections.abc import Callable

from graphs import Case, Expr, Make
from tvm import relay

from bnfx import Code

Graph = Callable[[Make], Expr]


def _dilated_past_the_input(kind: str) -> Graph:
    """Both taps of the one window lie in the padding, on either side of the one position."""

    def build(make: Make) -> Expr:
        y = make.conv(make.input(2, 4, 1, 1), 8, 4, 1, 1, bias=True)
        options = {"pool_size": (2, 2), "padding": (1, 1), "dilation": (2, 2)}
        y = make.batch_norm(getattr(relay.nn, kind)(y, **options), 8, positive=True)
        # The smallest number there is stands for "nothing": of the order of the rest.
        return relay.clip(y, -10.0, 10.0)

    return build


def _wide(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 8), 8, 4, 1, 1, bias=True)
    options = {"pool_size": (2, 2), "strides": (2, 2), "padding": (1, 1), "dilation": (2, 2)}
    return make.batch_norm(relay.nn.max_pool2d(y, **options), 8, positive=True)


CASES = [
    *(
        Case(
            f"behind-{kind}-dilated-past-the-input",
            _dilated_past_the_input(f"{kind}_pool2d"),
            folded=0,
            lowered=1,
            left=3,
            codes=(Code.NO_LINEAR_BEFORE,),
        )
        for kind in ("max", "avg")
    ),
    Case(
        "behind-dilated-max-pool",
        _wide,
    ),
]
