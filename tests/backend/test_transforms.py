"""Functions that transform a model (torch.func) inside of a compiled graph."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import nn
from torch.func import functional_call, stack_module_state


def _member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)
    return randomise(nn.Sequential(*layers), seed).eval().double()


@pytest.mark.slow
@torch.no_grad()
def test_an_ensemble_under_vmap() -> None:
    """What vmap sees of a member has layouts that torch does not tell; they are not asked for."""
    members = [_member(seed) for seed in range(3)]
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def one(parameters: Any, buffers: Any, image: torch.Tensor) -> Any:
        return functional_call(base, (parameters, buffers), (image,))

    def ensemble(image: torch.Tensor) -> Any:
        return torch.vmap(one, in_dims=(0, 0, None))(parameters, buffers, image)

    reports: list[Any] = []
    options = {"inner": "eager", "report": reports.append}
    compiled = torch.compile(ensemble, backend="bnfx", options=options, fullgraph=True)
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = compiled(image)
    assert relative(answer, torch.stack([member(image) for member in members])) < 1e-12
    codes = [reason.code for verdict in reports[0].verdicts for reason in verdict.refusals]
    assert "internal-error" not in codes
    parameters["0.weight"].mul_(-2)
    assert relative(compiled(image), ensemble(image)) < 1e-12
