"""Random networks: folded and compiled answers are the eager ones, always.

``BNFX_FUZZ=5000`` sets the number of networks a test; a nightly run takes thousands. Capturing one
for ``fold`` takes four times as long as compiling it, so of those there are fewer.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fuzz.programs import Network, Shape, Step, networks
from hypothesis import HealthCheck, assume, given, settings
from support import Capture

import bnfx

EXACT = 1e-10  # of the largest element
TELLING = 1e-6  # of what another input changes: an answer that hardly varies proves little
NOISE = 1e-12  # where all cancels


def _examples(usual: int) -> settings:
    return settings(
        deadline=None,
        derandomize="BNFX_FUZZ" not in os.environ,
        database=None,
        max_examples=int(os.environ.get("BNFX_FUZZ", usual)),
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )


def _agree(network: Network, run: Callable[..., Any], shape: Shape) -> bool:
    """Whether anything could be compared: an answer that is the same for two inputs proves nothing.

    Writes of a network to its input are its own affair: each run gets a copy.
    """
    x, another = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected, elsewhere = network(x.clone()), network(another.clone())
        changes = [float((e - o).abs().max()) for e, o in zip(expected, elsewhere, strict=True)]
        if max(changes) <= NOISE:
            return False
        actual = run(network, x)
    assert len(actual) == len(expected)
    for ours, theirs, change in zip(actual, expected, changes, strict=True):
        assert ours.shape == theirs.shape
        largest = max(float(theirs.abs().max()), 1.0)
        bound = min(EXACT * largest, max(TELLING * change, NOISE * largest))
        assert float((ours - theirs).abs().max()) <= bound, network
    return True


def _compiled(network: Network, x: torch.Tensor) -> Any:
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="bnfx", options=Capture().options)
    return compiled(x.clone())


def _folded(network: Network, x: torch.Tensor) -> Any:
    return bnfx.fold(network, x, keep="graph")(x.clone())


@_examples(20)
@given(networks())
def test_compiled_answers_are_eagers(case: tuple[Network, Shape]) -> None:
    _check(case, _compiled)


@pytest.mark.slow
@_examples(15)
@given(networks())
def test_folded_answers_are_eagers(case: tuple[Network, Shape]) -> None:
    _check(case, _folded)


def _check(case: tuple[Network, Shape], run: Callable[..., Any]) -> None:
    network, shape = case
    network.eval().double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", bnfx.RewriteWarning)
        assume(_agree(network, run, shape))


def test_a_wrong_answer_is_seen() -> None:
    """A fold that is off by 1e-8 in one channel's scale does not pass."""
    case: tuple[Network, Shape] = _one_network()

    def off(network: Network, x: torch.Tensor) -> Any:
        wrong = copy.deepcopy(network)
        norm = next(m for m in wrong.modules() if isinstance(m, torch.nn.BatchNorm2d))
        norm.weight.data[0] += 1e-8
        return wrong(x.clone())

    with pytest.raises(AssertionError, match="Network:"):
        _agree(case[0], off, case[1])


def _one_network() -> tuple[Network, Shape]:
    norm = torch.nn.BatchNorm2d(2).double().eval()
    step = Step("norm", (0,), lambda layer, x: layer(x), norm)
    return Network([step], [1]), (2, 2, 3, 3)
