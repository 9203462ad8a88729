"""A compiler may run a graph in any order that its edges allow, and another one on another rank.

Collectives must come in the same order all the same, or ranks add up what does not belong together.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd

import bnfx
from sync.cases_backend import compiled
from sync.training import assert_alike, images, make, sizes, train, train_alone

WORLDS: dict[int, tuple[str, ...]] = {3: (), 4: ()}


class Heads(nn.Module):
    """Two heads of one size, which leave out their all-reduce where nobody needs a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.norm_a(self.a(x)), self.norm_b(self.b(x))


class Independent(nn.Module):
    """Two BatchNorms, neither of which needs the other; what is between keeps them two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.norm_a, self.norm_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.norm_a(self.a(x)).relu()
        return (first + self.norm_b(self.b(torch.cumsum(x, 2))).relu()).mean((2, 3))


def backwards(module: fx.GraphModule, example_inputs: Any) -> Any:
    """The graph, last things first, as far as edges allow; writes at the end, as they stood."""
    nodes = list(module.graph.nodes)
    fixed = [n for n in nodes if n.op in ("placeholder", "output") or _writes(n)]
    done = [n for n in fixed if n.op == "placeholder"]
    left = [n for n in nodes if n not in fixed]
    while left:
        ready = [n for n in left if all(source in done for source in n.all_input_nodes)]
        done.append(ready[-1])
        left.remove(ready[-1])
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in (*done, *(n for n in fixed if n.op != "placeholder")):
        copies[node] = graph.node_copy(node, copies.__getitem__)
    reordered = fx.GraphModule(module, graph)
    assert [n.name for n in graph.nodes] != [n.name for n in nodes], "the case must reorder"
    return make_boxed_func(reordered.forward)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def case_ranks_order_graphs_differently() -> None:
    batches = images(sizes())
    model = make(Independent)
    expected = train_alone(model, batches)
    inner: Any = "aot_eager"
    if dist.get_rank():
        inner = aot_autograd(
            fw_compiler=backwards,
            bw_compiler=backwards,
            partition_fn=min_cut_rematerialization_partition,
        )
    train(compiled(model, inner), model, batches[dist.get_rank()])
    assert_alike(model, expected)


def case_each_rank_goes_back_through_another_layer() -> None:
    """Their sums would be added up: wrong gradients on both, and nothing to see of it."""
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    model = bnfx.convert_sync_batchnorm(make(Heads))
    with pytest.raises(bnfx.MismatchError, match="goes back through BatchNorm norm_"):
        model(x)[min(dist.get_rank(), 1)].square().sum().backward()


def case_each_rank_freezes_another_layer() -> None:
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    model = bnfx.convert_sync_batchnorm(make(Heads))
    (model.b if dist.get_rank() else model.a).requires_grad_(False)
    first, second = model(x)
    with pytest.raises(bnfx.MismatchError, match="goes back through BatchNorm"):
        (first * second).sum().backward()


def case_all_ranks_freeze_one_layer() -> None:
    batches = images(sizes())
    model = make(Independent)
    model.a.requires_grad_(False)
    expected = train_alone(model, batches)
    train(compiled(model, "aot_eager"), model, batches[dist.get_rank()])
    assert_alike(model, expected)
