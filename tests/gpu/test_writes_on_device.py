"""Whatever is written to parameters on a device is in the next answer."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import writes
from support import relative
from torch import nn

import bnfx

pytestmark = pytest.mark.gpu


def _eager_training(model: nn.Module) -> None:
    model.train()
    model(torch.randn(4, 2, 12, 12).to(next(model.parameters()).device).double())
    model.eval()


def _fused_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    x = torch.randn(2, 2, 12, 12, dtype=torch.float64).to(next(model.parameters()).device)
    with torch.enable_grad():
        model.requires_grad_(True)
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.requires_grad_(False)


def _past_autograd(model: nn.Module) -> None:
    for tensor in writes.everything(model):
        tensor.data.mul_(0.9)


def _load(model: nn.Module) -> None:
    other = writes.like(model, 7).to(next(model.parameters()).device)
    model.load_state_dict(other.state_dict())


def _assign(model: nn.Module) -> None:
    other = writes.like(model, 8).to(next(model.parameters()).device)
    model.load_state_dict(other.state_dict(), assign=True)


def _in_place(model: nn.Module) -> None:
    for tensor in writes.everything(model):
        tensor.mul_(-1.1)
    for buffer in writes.statistics(model):
        buffer.abs_()


def _new_data(model: nn.Module) -> None:
    for tensor in writes.everything(model):
        tensor.data = tensor.detach() * 1.3


def _refreshed(model: nn.Module) -> None:
    model.conv.weight.data[0, 0] += 1.0
    bnfx.refresh()


WRITES: dict[str, Callable[[nn.Module], None]] = {
    "in place": _in_place,
    "new data": _new_data,
    "load_state_dict": _load,
    "load_state_dict(assign=True)": _assign,
    "eager training": _eager_training,
    "fused optimizer": _fused_step,
    "past autograd": _past_autograd,
    "refresh": _refreshed,
}
HOWS = {
    "live": {"weights": "live", "inner": "aot_eager"},
    "frozen": {"weights": "frozen"},
    "channels_last": {"weights": "live", "inner": "aot_eager", "weight_layout": "channels_last"},
}


@pytest.mark.parametrize("how", HOWS)
def test_a_write_is_in_the_next_answer(device: str, how: str) -> None:
    """All writes on one compiled model, each from a state that has settled."""
    model = writes.Net(0).double().to(device).requires_grad_(False)
    x = torch.randn(3, 2, 12, 12, dtype=torch.float64).to(device)
    compiled = torch.compile(model, backend="bnfx", options=HOWS[how])
    missed = []
    with torch.no_grad():
        for name, write in WRITES.items():
            before = model(x)
            assert relative(compiled(x), before) < 1e-10, f"before {name}"
            write(model)
            expected = model(x)
            assert relative(before, expected) > 1e-6, f"{name} changed nothing"
            if not relative(compiled(x), expected) < 1e-10:
                missed.append(name)
                torch._dynamo.reset()
    assert missed == []


def test_frozen_weights_settle_again(device: str) -> None:
    model = writes.Net(0).double().to(device)
    x = torch.randn(3, 2, 12, 12, dtype=torch.float64).to(device)
    compiled = torch.compile(model, backend="bnfx", options={"weights": "frozen"})
    with torch.no_grad():
        for turn in range(3):
            for _ in range(7):  # frozen again after four
                assert relative(compiled(x), model(x)) < 1e-10, turn
            model.norm.weight.mul_(-1.2)


def test_random_sequences(device: str) -> None:
    """In-place writes of every kind, in random order, against the eager model."""
    rng = random.Random(0)
    model = writes.Net(0).double().to(device)
    x = torch.randn(3, 2, 12, 12, dtype=torch.float64).to(device)
    options = {"weights": "live", "inner": "aot_eager"}
    compiled = torch.compile(model, backend="bnfx", options=options)
    kinds = (writes.in_place, writes.one_element, writes.flip_signs, writes.data_op)
    with torch.no_grad():
        for step in range(60):
            kind = rng.choice(kinds)
            kind(model, rng)
            for buffer in writes.statistics(model):
                buffer.abs_()
            assert relative(compiled(x), model(x)) < 1e-9, (step, kind.__name__)


def test_two_models_of_a_class_share_code_and_no_weights(device: str) -> None:
    models = [writes.Net(seed).double().to(device) for seed in range(2)]
    x = torch.randn(3, 2, 12, 12, dtype=torch.float64).to(device)

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x)

    options = {"weights": "live", "inner": "aot_eager"}
    compiled = torch.compile(forward, backend="bnfx", options=options)
    with torch.no_grad():
        for _ in range(2):
            for model in models:
                assert relative(compiled(model, x), model(x)) < 1e-10
            models[0].norm.bias.add_(1)
