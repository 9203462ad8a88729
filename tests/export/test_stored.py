"""Tensors of a program that are constants, though a parameter or a buffer has their name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import nn

import bnfx
from bnfx.folding.programs.stored import fixed_tensors, in_constants

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
KEPT = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)


def net(path: str, value: Any = KEPT) -> nn.Module:
    model = randomise(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).double()).eval()
    place, _, name = path.partition(".")
    vars(model[int(place)])[name] = value  # found before the parameter or buffer
    return model


@pytest.mark.parametrize("path", ["1.running_mean", "1.weight", "1.bias", "0.bias"])
def test_a_constant_is_no_parameter_of_its_name(path: str) -> None:
    model = net(path)
    with torch.no_grad():
        expected = model(X)
        program = torch.export.export(model, (X,))
    before = copy.deepcopy(program.state_dict)
    folded = bnfx.fold(program)
    assert relative(folded.module()(X), expected) < 1e-12
    assert len([n for n in folded.graph.nodes if n.op == "call_function"]) == 1
    assert program.state_dict.keys() == before.keys()
    hidden = [s for s in program.graph_signature.input_specs if s.target == path]
    assert [in_constants(program, spec) for spec in hidden] == [False, True]
    found = fixed_tensors(program)
    assert torch.equal(found[hidden[1].arg.name], KEPT)
    assert torch.equal(found[hidden[0].arg.name], before[path])


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.register_buffer("scale", torch.ones(1).double() * 2, persistent=False)
        self.register_buffer("calls", torch.zeros(1).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.bn(self.conv(x)) * self.scale + self.calls


def test_a_buffer_that_is_not_saved_is_among_the_constants() -> None:
    model = randomise(Counts().double()).eval()
    model.scale.fill_(3)
    program = torch.export.export(model, (X,))
    specs = {spec.target: spec for spec in program.graph_signature.input_specs}
    assert in_constants(program, specs["scale"])
    assert not in_constants(program, specs["calls"])
    functional = program.run_decompositions({})
    found = fixed_tensors(functional)  # what is written to is an output there
    assert {"b_scale", "b_calls"} - found.keys() == {"b_calls"}
    programs = [bnfx.fold(each).module() for each in (program, functional)]
    for _ in range(2):
        expected = model(X)
        assert all(relative(each(X), expected) < 1e-12 for each in programs)
