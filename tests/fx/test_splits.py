"""Splits whose parts overlap, and such as leave parts empty."""

from __future__ import annotations

import pytest
import torch
from support import Capture, randomise, relative
from torch import Tensor, nn

Indices = tuple[int, ...]


class Split(nn.Module):
    """One part of a split of six channels, at ``indices``, beside a BatchNorm and a convolution."""

    def __init__(self, indices: Indices, part: int, back: bool) -> None:
        super().__init__()
        self.indices, self.part, self.back = indices, part, back
        width = torch.ones(6).tensor_split(indices)[part].numel()
        self.conv = nn.Conv2d(3, 6, 1) if back else nn.Conv2d(width, 4, 1)
        self.bn = nn.BatchNorm2d(width if back else 6)

    def forward(self, x: Tensor) -> Tensor:
        before, behind = (self.conv, self.bn) if self.back else (self.bn, self.conv)
        return behind(torch.tensor_split(before(x), self.indices, dim=1)[self.part])  # type: ignore[no-any-return]


def _outcome(model: nn.Module, x: Tensor) -> str:
    randomise(model).eval().double()
    capture = Capture()
    with torch.no_grad():
        compiled = torch.compile(
            model, backend="bnfx", options={**capture.options, "inner": "eager"}
        )
        assert relative(compiled(x), model(x)) < 1e-12
    (verdict,) = capture.reports[0].verdicts
    return str(verdict.outcome.value)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(
    ("indices", "part", "outcome"),
    [
        ((2, 4), 1, "folded"),
        ((-4, 9), 1, "folded"),
        ((0, 2, 2), 3, "folded"),
        # The third part begins at 1 again, not behind the others.
        ((3, 1, 2), 2, "lowered"),
        ((3, 1), 2, "lowered"),
        ((-4, -5, 3), 2, "lowered"),
    ],
)
def test_parts_follow_one_another_where_indices_ascend(
    indices: Indices, part: int, outcome: str, back: bool
) -> None:
    x = torch.randn(2, 3 if back else 6, 4, 4, dtype=torch.float64)
    assert _outcome(Split(indices, part, back), x) == outcome


def test_two_parts_that_see_the_same_channel() -> None:
    """The BatchNorm would move into channels that the other part reads, too."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            first, _, second, _ = torch.tensor_split(self.conv(x), (3, 1, 2), dim=1)
            return self.bn(first) + second

    assert _outcome(Both(), torch.randn(2, 3, 4, 4, dtype=torch.float64)) == "lowered"
