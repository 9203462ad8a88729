"""Networks rewritten by algebra: one answer, however it is written, and as few ops left."""

from __future__ import annotations

import pytest
import torch
from fuzz.checks import Setting
from fuzz.drawn import drawn_settings, examples
from fuzz.equivalents import REWRITES, TWICE, rewritten
from fuzz.network import Network, Step
from fuzz.programs import LAYER, Shape, networks
from fuzz.reproduce import check
from hypothesis import assume, given
from hypothesis import strategies as st
from support import Capture, count_ops, randomise, relative
from torch import nn


@examples(8)
@given(networks(), drawn_settings(), st.data())
def test_rewritten_networks_answer_alike(
    case: tuple[Network, Shape], setting: Setting, data: st.DataObject
) -> None:
    network, shape = case
    # Steps that write to what they read would write to another value's memory.
    assume(not any(step.writes for step in network.steps))
    other = rewritten(network, lambda names, at: data.draw(st.sampled_from(names)))
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        answers = other.module().double()(x.clone()), network.module().double()(x.clone())
        for mine, theirs in zip(*answers, strict=True):
            bound = 1e-10 * max(float(theirs.abs().max()), 1.0)
            assert float((mine - theirs).abs().max()) <= bound, "the generator is wrong"
    assume(check(other, shape, setting, data.draw(st.integers(0, 9999))))


def _pair(conv: nn.Module) -> Network:
    steps = [Step(LAYER, (0,), conv), Step(LAYER, (1,), nn.BatchNorm2d(conv.out_channels))]
    for step in steps:
        randomise(step.layer).double()
    return Network([*steps, Step("torch.relu({0})", (2,))], [3])


def _ops(network: Network, x: torch.Tensor) -> int:
    torch._dynamo.reset()
    capture, module = Capture(), network.module().double()
    with torch.no_grad():
        actual = torch.compile(module, backend="bnfx", options=capture.options)(x)
    assert relative(actual[0], module(x)[0]) < 1e-12
    return sum(map(count_ops, capture.graphs))


# What is more than a convolution and a ReLU: a concatenation, two permutes.
MORE = {"split channels": 2, "permuted": 2}
# The convolution stands at place 0, the BatchNorm at 1.
PLACES = [("permuted", 0), ("permuted", 1), ("by hand", 1), ("doubled", 1)]
PLACES += [(name, 0) for name in REWRITES if name not in ("permuted", "by hand", "distributed")]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_as_few_ops_are_left(name: str, place: int) -> None:
    """One convolution and one ReLU, however the pair of convolution and BatchNorm is written."""
    torch.manual_seed(0)
    network = _pair(nn.Conv2d(4, 4, 3))
    other = rewritten(network, lambda names, at: name if at == place else "")
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    answers = other.module().double()(x)[0], network.module().double()(x)[0]
    assert relative(*answers) < 1e-12
    assert _ops(network, x) == 2
    assert _ops(other, x) == 2 + MORE.get(name, 0)


def test_each_reader_has_a_copy() -> None:
    """``twice``: two convolutions where one was read by two, and both are read."""
    conv = Step(LAYER, (0,), nn.Conv2d(4, 4, 1))
    readers = [Step("torch.relu({0})", (1,)), Step("torch.tanh({0})", (1,))]
    network = Network([conv, *readers], [2, 3])
    other = rewritten(network, lambda names, at: TWICE if at == 0 else "")
    assert [step.reads for step in other.steps] == [(0,), (0,), (1,), (2,)]
