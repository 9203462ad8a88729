"""What the programs of this folder share: one line for each case, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import nn

torch.manual_seed(0)  # the same weights and inputs in each run


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """BatchNorms that are no identities, in evaluation mode."""
    torch.manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            if norm.affine:
                nn.init.uniform_(norm.weight, -2, 2)
                nn.init.uniform_(norm.bias, -1, 1)
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.2, 3)
    return model.eval()


class SharedConv(nn.Module):
    """One convolution, called twice, with a BatchNorm for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.conv(x)) + self.second(self.conv(x + 1))


class TwoReaders(nn.Module):
    """A convolution that a BatchNorm reads, and the sum behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.bn(y) + y


def case(
    peer: str,
    package: str,
    what: str,
    expected: Any,
    theirs: Callable[[], Any],
    ours: Callable[[], Any] | None = None,
) -> None:
    """Print what a peer makes of a case, and what bnfx makes of it.

    Args:
        peer: its name.
        package: that it is a part of, for the version.
        what: the case, in words.
        expected: the answer of the model as it is.
        theirs: the peer's answer.
        ours: that of bnfx, where it takes such a model at all.
    """
    row = {
        "peer": f"{peer} ({package} {metadata.version(package)})",
        "case": what,
        "theirs": _outcome(theirs, expected),
        "bnfx": "" if ours is None else _outcome(ours, expected),
    }
    print(json.dumps(row), flush=True)


def _outcome(answer: Callable[[], Any], expected: Any) -> str:
    """The largest error relative to the largest expected value, or what was raised."""
    expected = torch.as_tensor(expected).detach().double()
    try:
        given = torch.as_tensor(answer()).detach().double()
    except Exception as error:
        return f"raises {type(error).__name__}"
    if given.shape != expected.shape:
        return f"answers with shape {tuple(given.shape)}, not {tuple(expected.shape)}"
    if not given.isfinite().all():
        return "answers NaN or infinity"
    error = float((given - expected).abs().max() / expected.abs().max())
    return f"{error:.1e}" if error < 1e-3 else f"{error:.2g}"
