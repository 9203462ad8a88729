"""Random networks: folded and compiled answers are the eager ones, always.

``BNFX_FUZZ=5000`` sets the number of networks a test; a nightly run takes thousands.
"""

from __future__ import annotations

import os
import warnings

import torch
from fuzz.programs import Network, Shape, networks
from hypothesis import HealthCheck, given, settings
from support import Capture

import bnfx

EXAMPLES = int(os.environ.get("BNFX_FUZZ", "120"))
EXACT = 1e-10
SETTINGS = settings(
    deadline=None,
    derandomize="BNFX_FUZZ" not in os.environ,
    database=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _agree(network: Network, actual: tuple[torch.Tensor, ...], x: torch.Tensor) -> None:
    """Writes of a network to its input are its own affair: each run gets a copy."""
    with torch.no_grad():
        expected = network(x.clone())
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        scale = max(float(theirs.abs().max()), 1.0)
        assert float((ours - theirs).abs().max()) < EXACT * scale, network


@SETTINGS
@given(networks())
def test_compiled_is_eager(case: tuple[Network, Shape]) -> None:
    network, shape = case
    network.eval().double()
    x = torch.randn(shape, dtype=torch.float64)
    torch._dynamo.reset()
    capture = Capture()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", bnfx.RewriteWarning)
        compiled = torch.compile(network, backend="bnfx", options=capture.options)
        actual = compiled(x.clone())
    _agree(network, actual, x)


@SETTINGS
@given(networks())
def test_folded_is_eager(case: tuple[Network, Shape]) -> None:
    network, shape = case
    network.eval().double()
    x = torch.randn(shape, dtype=torch.float64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", bnfx.RewriteWarning)
        folded = bnfx.fold(network, x, keep="graph")
        actual = folded(x.clone())
    _agree(network, actual, x)
