"""Networks rewritten by algebra: one answer, however it is written, and as few ops left."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from fuzz.equivalents import REWRITES, rewritten
from fuzz.programs import Network, Shape, Step, networks
from fuzz.test_fuzz import _agree, _compiled, _examples, _folded
from hypothesis import assume, given
from hypothesis import strategies as st
from support import Capture, count_ops, randomise, relative
from torch import nn

import bnfx


@_examples(8)
@given(networks(), st.data())
def test_rewritten_networks_answer_alike(case: tuple[Network, Shape], data: st.DataObject) -> None:
    network, shape = case
    # Steps that write to their input would write to another value's memory.
    assume(not any("write" in step.name or step.name.endswith("_") for step in network.steps))
    network.eval().double()
    other = rewritten(network, lambda names, at: data.draw(st.sampled_from(names)))
    other.eval().double()
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", bnfx.RewriteWarning)
        for mine, theirs in zip(other(x.clone()), network(x.clone()), strict=True):
            bound = 1e-10 * max(float(theirs.abs().max()), 1.0)
            assert float((mine - theirs).abs().max()) <= bound, "the generator is wrong"
        way = data.draw(st.sampled_from([_compiled, _compiled, _folded]))
        assume(_agree(other, way, shape))


def _pair(conv: nn.Module) -> Network:
    run = Step("run", (0,), lambda layer, x: layer(x), conv)
    norm = Step("bn", (1,), lambda layer, x: layer(x), nn.BatchNorm2d(conv.out_channels))
    relu = Step("relu", (2,), lambda layer, x: torch.relu(x))
    return Network([run, norm, relu], [3])


def _ops(network: Network, x: torch.Tensor) -> int:
    torch._dynamo.reset()
    capture = Capture()
    with torch.no_grad():
        actual = torch.compile(network, backend="bnfx", options=capture.options)(x)
    assert relative(actual[0], network(x)[0]) < 1e-12
    return sum(map(count_ops, capture.graphs))


# What is more than a convolution and a ReLU: a concatenation, two permutes.
MORE = {"split channels": 2, "permuted": 2}


# The convolution stands at place 0, the BatchNorm at 1.
PLACES = [("permuted", 0), ("permuted", 1), ("by hand", 1)]
PLACES += [(name, 0) for name in REWRITES if name not in ("permuted", "by hand")]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_as_few_ops_are_left(name: str, place: int) -> None:
    """One convolution and one ReLU, however the pair of convolution and BatchNorm is written."""
    torch.manual_seed(0)
    network = _pair(nn.Conv2d(4, 4, 3))
    randomise(network).eval().double()
    other = rewritten(network, lambda names, at: name if at == place else "")
    other.eval().double()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    assert relative(other(x)[0], network(x)[0]) < 1e-12
    assert _ops(copy.deepcopy(network), x) == 2
    assert _ops(other, x) == 2 + MORE.get(name, 0)
