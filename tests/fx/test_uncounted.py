"""Batches are not counted again where a graph is computed again for backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from bnfx.passes.fx.training.synchronise import in_training
from bnfx.passes.fx.training.uncounted import without_counting

Run = Callable[[Any, torch.Tensor], Any]


class Counting(nn.Module):
    """A layer with a counter of its own, and a number that it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("rate", torch.tensor(0.5))
        self.register_buffer("two", torch.tensor([0, 0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        self.rate.mul_(2)
        self.two.add_(1)
        return F.batch_norm(x, None, None, training=True)


class Net(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.norm, self.other, self.own = nn.BatchNorm1d(3), nn.BatchNorm1d(3), Counting()
        self.register_buffer("calls", torch.tensor(0))
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def _checkpointed(run: Run) -> Run:
    return lambda m, x: checkpoint(lambda y: run(m, y), x, use_reentrant=False)


def _called(m: Any, x: torch.Tensor) -> Any:
    m.calls.add_(1)
    return m.norm(x) * m.calls


def _inside(m: Any, x: torch.Tensor) -> Any:
    """The block writes to nothing but a counter, and belongs to who calls the norm."""

    def block(y: torch.Tensor) -> torch.Tensor:
        m.calls.add_(1)
        return F.batch_norm(y, None, None, training=True)

    return checkpoint(block, x, use_reentrant=False) + 1


def _read(m: Any, x: torch.Tensor) -> Any:
    return F.batch_norm(x, None, None, training=True) * m.calls.add_(1)


def _own_number(m: Any, x: torch.Tensor) -> Any:
    """A whole number that the call made itself is no counter."""
    found = (x > 0).sum()
    found.add_(1)
    return F.batch_norm(x, None, None, training=True) * found


def _frozen(m: Any, x: torch.Tensor) -> Any:
    return m.other.eval()(m.norm(x))


# What is left as it was; all else changes as in the model.
CASES: dict[str, tuple[Run, set[str]]] = {
    "a norm": (lambda m, x: m.norm(x), {"norm.num_batches_tracked"}),
    "two": (
        lambda m, x: m.norm(x) + m.other(x),
        {"norm.num_batches_tracked", "other.num_batches_tracked"},
    ),
    "none": (lambda m, x: x + m.calls.add_(1), set()),
    "of a caller of the layer": (_called, {"norm.num_batches_tracked"}),
    "of the layer's own code": (lambda m, x: m.own(x), {"own.seen"}),
    "one that is read": (_read, {"calls"}),
    "a checkpointed block": (_checkpointed(lambda m, x: m.norm(x)), {"norm.num_batches_tracked"}),
    "a block within a block": (
        _checkpointed(_checkpointed(lambda m, x: m.norm(x))),
        {"norm.num_batches_tracked"},
    ),
    "a block that counts": (_inside, {"calls"}),
    "a number of the call's own": (_own_number, set()),
    "beside one in evaluation": (_frozen, {"norm.num_batches_tracked"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_counted(name: str) -> None:
    run, left = CASES[name]
    model, x = Net(run).double(), torch.randn(4, 3, dtype=torch.float64)
    graphs: list[str] = []

    def backend(module: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        before = module.print_readable(print_output=False)
        layers = list(in_training(module))
        found = without_counting(module, layers)
        assert module.print_readable(print_output=False) == before
        assert (found is module) == (not left)
        graphs.append(found.print_readable(print_output=False))
        return found.forward

    start = {key: value.clone() for key, value in model.state_dict().items()}
    expected = run(model, x)
    after = {key: value.clone() for key, value in model.state_dict().items()}
    # A second time: batches are counted by now, and running statistics go on.
    model.load_state_dict({key: (after if key in left else start)[key] for key in start})
    torch._dynamo.reset()
    outer = nn.Sequential(model)  # of its outermost code, Dynamo does not say what module runs it
    torch.testing.assert_close(torch.compile(outer, backend=backend)(x), expected)
    assert len(graphs) == 1
    found = model.state_dict()
    for key in start:
        torch.testing.assert_close(found[key], after[key], msg=key)
