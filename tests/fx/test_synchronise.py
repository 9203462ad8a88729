"""The pass that swaps training BatchNorms: which share a call, and that nothing else changes.

The function that is swapped in is a local BatchNorm for each layer: answers can be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import randomise
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from bnfx.passes.fx.training.synchronise import Swapped, in_training, synchronise


def stand_in(layers: Sequence[Any], token: Any, **constants: Any) -> tuple[Any, ...]:
    assert constants == {"name": "group", "size": 2}
    outputs = [
        F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)
        for x, mean, var, weight, bias, momentum, eps, _ in layers
    ]
    return (*outputs, 0 if token is None else token + 1)


def swap(
    model: nn.Module, *inputs: torch.Tensor, chosen: Callable[[fx.Node], bool] = lambda node: True
) -> list[list[str]]:
    """The BatchNorms of each call; the swapped graph's answer and writes are the model's own."""
    done: list[Swapped] = []

    def backend(module: fx.GraphModule, example_inputs: Any) -> Any:
        before = str(module.graph)
        done.append(synchronise(module, chosen, stand_in, {"name": "group", "size": 2}))
        assert str(module.graph) == before
        return done[-1].module.forward

    expected_model = copy.deepcopy(model)
    ours, theirs = ([x.clone() for x in inputs] for _ in range(2))
    actual = torch.compile(model, backend=backend, fullgraph=True)(*ours)
    torch.testing.assert_close(actual, expected_model(*theirs))
    torch.testing.assert_close(ours, theirs)
    for name, value in expected_model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)
    (swapped,) = done
    return [[site.name for site in call] for call in swapped.calls]


class Net(nn.Module):
    """Two convolutions, each with its BatchNorm, wired as the function says."""

    def __init__(self, wiring: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm_a, self.norm_b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.wiring = wiring
        randomise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wiring(self, x)


X = torch.randn(2, 3, 5, 5)


def parallel(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.norm_a(net.a(x)).relu_() + net.norm_b(net.b(x).relu())


def serial(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.norm_b(net.b(net.norm_a(net.a(x))))


def input_written(net: Net, x: torch.Tensor) -> torch.Tensor:
    first = net.norm_a(net.a(x))
    x.relu_()
    return first + net.norm_b(net.b(x))


def view_written(net: Net, x: torch.Tensor) -> torch.Tensor:
    x = x + 1
    first = net.norm_a(net.a(x))
    x.view(-1).mul_(2)
    return first + net.norm_b(net.b(x))


def weight_written(net: Net, x: torch.Tensor) -> torch.Tensor:
    first = net.norm_a(net.a(x))
    with torch.no_grad():
        net.norm_b.weight.mul_(2)
    return first + net.norm_b(net.b(x))


def statistics_read(net: Net, x: torch.Tensor) -> torch.Tensor:
    first = net.norm_a(net.a(x))
    noted = net.norm_b.running_mean * 2
    return first + net.norm_b(net.b(x)) + noted.view(1, -1, 1, 1)


def random(net: Net, x: torch.Tensor) -> torch.Tensor:
    first = net.norm_a(net.a(x))
    return first + net.norm_b(F.dropout(net.b(x), 1e-9))


def without_gradients(net: Net, x: torch.Tensor) -> torch.Tensor:
    first = net.norm_a(net.a(x))
    with torch.no_grad():
        second = net.norm_b(net.b(x))
    return first + second


def unknown(net: Net, x: torch.Tensor) -> torch.Tensor:
    first = net.norm_a(net.a(x))
    return first + net.norm_b(net.b(torch.cumsum(x, 2)))


def shared(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.norm_a(net.a(x)) + net.norm_a(net.b(x))


def checkpointed(net: Net, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(lambda x: parallel(net, x), x, use_reentrant=False)


@pytest.mark.parametrize(
    ("wiring", "calls"),
    [
        (parallel, [["norm_a", "norm_b"]]),
        (checkpointed, [["norm_a", "norm_b"]]),
        (shared, [["norm_a", "norm_a"]]),
        (serial, [["norm_a"], ["norm_b"]]),
        (input_written, [["norm_a"], ["norm_b"]]),
        (view_written, [["norm_a"], ["norm_b"]]),
        (weight_written, [["norm_a"], ["norm_b"]]),
        (statistics_read, [["norm_a"], ["norm_b"]]),
        (random, [["norm_a"], ["norm_b"]]),
        (without_gradients, [["norm_a"], ["norm_b"]]),
        (unknown, [["norm_a"], ["norm_b"]]),
    ],
)
def test_who_shares_a_call(wiring: Any, calls: list[list[str]]) -> None:
    assert swap(Net(wiring), X) == calls


def test_three_share_a_call() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3) for _ in range(3)])
            self.norms = nn.ModuleList([nn.BatchNorm2d(3) for _ in range(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(n(c(x)).relu() for c, n in zip(self.convs, self.norms, strict=True))

    assert swap(randomise(Three()), X) == [["norms.0", "norms.1", "norms.2"]]


def test_sizes_do_not_change_who_shares() -> None:
    """Ranks may have captured static and dynamic graphs; they must come to the same calls."""

    class Reshaping(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.norm_a(self.a(x))
            other = x.reshape(x.shape[0], 3, x.shape[3], x.shape[2])
            return first.mean() + self.norm_b(self.b(other)).mean()

    calls = []
    for dynamic in (False, True):
        torch._dynamo.reset()
        with torch._dynamo.config.patch(assume_static_by_default=not dynamic):
            calls.append(swap(Reshaping(serial), X))
    assert calls == [[["norm_a", "norm_b"]]] * 2


def test_only_what_is_chosen() -> None:
    names = swap(Net(parallel), X, chosen=lambda node: "norm_b" in str(node.args[1]))
    assert names == [["norm_b"]]


def test_evaluation_is_left_alone() -> None:
    model = Net(parallel)
    model.norm_a.eval()
    assert swap(model, X) == [["norm_b"]]
    torch._dynamo.reset()
    assert swap(Net(parallel).eval(), X) == []


def test_a_training_flag_must_be_constant() -> None:
    """A computed flag cannot be decided when compiling; the BatchNorm is found, and left."""
    graph = fx.Graph()
    x, mean, var, flag = (graph.placeholder(name) for name in ("x", "mean", "var", "flag"))
    graph.output(graph.call_function(F.batch_norm, (x, mean, var, None, None, flag)))
    module = fx.GraphModule({}, graph)
    assert len(list(in_training(module))) == 1
    swapped = synchronise(module, lambda node: True, stand_in, {})
    assert swapped.module is module
    assert swapped.calls == ()
