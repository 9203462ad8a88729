"""Folds inside of the graphs that ops run: regions, checkpointed blocks, branches, loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import TORCH, Capture, count_batch_norms, randomise, relative
from torch import fx, nn
from torch._dynamo import lookup_backend
from torch._higher_order_ops.invoke_subgraph import invoke_subgraph
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

import bnfx

Forward = Callable[[Any, torch.Tensor], torch.Tensor]
X = torch.randn(2, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.compiler.nested_compile_region
def region(block: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return block(x)


class Block(nn.Module):
    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = norm or nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Counting(Block):
    """Writes to the statistics that it normalises with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.bn.running_mean.add_(0.1)
        return super().forward(x)


class Padded(nn.Module):
    """A BatchNorm in front of a convolution that pads: what is left is a border."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.bn(x))


class Net(nn.Module):
    def __init__(self, forward: Forward, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.function = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.blocks, x)


def net(forward: Forward, *blocks: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = randomise(Net(forward, *blocks)).double().eval()
    for norm in model.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.weight.uniform_(-1.5, 1.5)
            norm.running_mean.uniform_(-1, 1)
    return model


def in_turn(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        x = region(block, x)
    return x


def loop(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    count = torch.zeros((), dtype=torch.int64)
    return while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, blocks[0](y)), (count, x))[1]


def nested(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    return region(lambda y: region(blocks[1], region(blocks[0], y)) + y, x)


def branch_in_region(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    return region(lambda y: torch.cond(y.sum() > 0, blocks[0], blocks[1], (y,)), x)


def autocast(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return region(blocks[0], x)


def scanned(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    """The block runs on what is carried."""
    steps = torch.arange(3, dtype=x.dtype)
    carried, sums = scan(lambda y, by: (blocks[0](y) * by.cos(), y.sum()), x, steps)
    return carried + sums.sum()


def scanned_slices(blocks: Any, x: torch.Tensor) -> torch.Tensor:
    """Blocks run on the slices, one of them backwards along the batch."""
    start = torch.zeros(1, 4, 6, 5, dtype=x.dtype)

    def step(y: torch.Tensor, part: torch.Tensor) -> Any:
        return y + blocks[0](part[None]), blocks[1](part[None] + y)

    carried, stacked = scan(step, start, x, reverse=True)
    return carried + stacked.sum(0)


# What each is, and how many of its BatchNorms fold.
NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "regions": (lambda: net(in_turn, Block(), Block(), Block()), 3),
    "one block in two regions": (
        lambda: net(lambda b, x: region(b[0], region(b[0], x)), Block()),
        2,
    ),
    "in a region and out of it": (lambda: net(lambda b, x: region(b[0], b[0](x)), Block()), 2),
    "regions in a region": (lambda: net(nested, Block(), Block()), 2),
    "another op before": (lambda: net(lambda b, x: region(b[0], x.sin() * 2), Block()), 1),
    "frozen BatchNorm": (lambda: net(in_turn, *(Block(FrozenBatchNorm2d(4)) for _ in "ab")), 0),
    "border": (lambda: net(in_turn, Padded(), Padded()), 2),
    "checkpoint": (
        lambda: net(lambda b, x: checkpoint(b[0], x, use_reentrant=False), Block()),
        1,
    ),
    "branches": (
        lambda: net(lambda b, x: torch.cond(x.sum() > 0, b[0], b[1], (x,)), Block(), Block()),
        2,
    ),
    "one branch": (
        lambda: net(lambda b, x: torch.cond(x.sum() > 9, torch.sin, b[0], (x,)), Block()),
        1,
    ),
    "branch in a region": (lambda: net(branch_in_region, Block(), Block()), 2),
    "loop": (lambda: net(loop, Block()), 1),
    "map": (lambda: net(lambda b, x: torch_map(b[0], x[None].repeat(3, 1, 1, 1, 1)), Block()), 1),
    "scan": (lambda: net(scanned, Block()), 1),
    "scan along slices": (lambda: net(scanned_slices, Block(), Block()), 2),
    "no autocast": (lambda: net(autocast, Block()), 1),
}


class Traced(Capture):
    """Keeps the graphs, and has AOTAutograd run them, which all ops have gradients in."""

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        self.graphs.append(module)
        run: Callable[..., Any] = lookup_backend("aot_eager")(module, example_inputs)
        return run


def graphs(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """A graph and those in it, each once."""
    return (each for each in module.modules() if isinstance(each, fx.GraphModule))


def compiled(model: nn.Module, kind: type[Capture] = Capture) -> tuple[Callable[..., Any], Capture]:
    torch._dynamo.reset()
    capture = kind()
    return torch.compile(model, backend="bnfx", options=capture.options), capture


def left(capture: Capture) -> int:
    return sum(count_batch_norms(each) for graph in capture.graphs for each in graphs(graph))


def change(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype.is_floating_point:
                tensor.mul_(1.25)


@pytest.mark.parametrize("name", NETS)
def test_it_folds_and_is_never_stale(name: str) -> None:
    build, folded = NETS[name]
    model = build()
    function, capture = compiled(model)
    with torch.no_grad():
        for _ in range(2):
            assert relative(function(X), model(X)) < 1e-14
            change(model)
    (report,) = capture.reports
    assert report.count("folded") == folded == len([v for v in report.verdicts if _is_norm(v)])
    assert left(capture) == 0


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", NETS)
def test_gradients_flow_into_it(name: str) -> None:
    if name == "loop":
        pytest.skip("AOTAutograd has no gradients for loops")
    build, folded = NETS[name]
    model = build()
    function, capture = compiled(model, Traced)
    for _ in range(2):
        want, got = model(X), function(X)
        wanted = torch.autograd.grad(want.square().sum(), list(model.parameters()))
        given = torch.autograd.grad(got.square().sum(), list(model.parameters()))
        assert relative(got, want) < 1e-14
        for mine, theirs in zip(given, wanted, strict=True):
            assert (mine - theirs).abs().max() <= 1e-12 * (1 + theirs.abs().max())
        change(model)
    assert capture.reports[0].count("folded") == folded
    assert left(capture) == 0


def _is_norm(verdict: Any) -> bool:
    return bool(verdict.site.kind == "batch_norm")


def test_equal_bodies_stay_shared() -> None:
    model = net(in_turn, Block(), Block(), Block())
    function, capture = compiled(model)
    with torch.no_grad():
        function(X)
    (graph,) = capture.graphs
    assert len(list(graphs(graph))) == 2
    nodes = graph.graph.find_nodes(op="call_function", target=invoke_subgraph)
    calls: list[Any] = list(nodes)
    assert len({call.args[0].target for call in calls}) == len({c.args[1] for c in calls}) == 1
    assert [len(call.args) for call in calls] == [5, 5, 5]  # body, name, x, weight, bias
    names = [verdict.site.name for verdict in capture.reports[0].verdicts]
    assert names == ["blocks.0.bn", "blocks.1.bn", "blocks.2.bn"]
    assert [v.target for v in capture.reports[0].verdicts] == [f"blocks.{i}.conv" for i in range(3)]


def test_one_that_cannot_fold_has_a_body_of_its_own() -> None:
    model = net(in_turn, Block(), Block(), Block())
    model.blocks[1].bn.running_mean[0] = float("inf")
    function, capture = compiled(model)
    with torch.no_grad():
        assert torch.equal(function(X).isnan(), model(X).isnan())
        (graph,) = capture.graphs
        assert len(list(graphs(graph))) == 3
        model.blocks[1].bn.running_mean[0] = 0.5  # it may fold from now on
        assert relative(function(X), model(X)) < 1e-14
        model.blocks[2].bn.running_var[1] = float("inf")
        assert relative(function(X), model(X)) < 1e-14
    outcomes = [v.outcome for v in capture.reports[0].verdicts]
    assert outcomes == ["folded", "kept", "folded"]


def test_what_a_body_writes_to_is_not_read_ahead() -> None:
    model = net(lambda b, x: torch.cond(x.sum() > 99, torch.sin, b[0], (x,)), Block())
    twin = net(in_turn, Counting())
    for each in (model, twin):
        function, capture = compiled(each)
        with torch.no_grad():
            for _ in range(2):
                start = {name: value.clone() for name, value in each.state_dict().items()}
                got = function(X)
                each.load_state_dict(start)
                assert relative(got, each(X)) < 1e-14
        assert capture.reports[0].count("folded") == (each is model)


def test_what_a_loop_carries_is_no_parameter() -> None:
    """The first mean is a buffer; those of later runs are not."""

    def carried(blocks: Any, x: torch.Tensor) -> torch.Tensor:
        block = blocks[0]

        def body(i: torch.Tensor, y: torch.Tensor, mean: torch.Tensor) -> Any:
            weights = (block.bn.running_var, block.bn.weight, block.bn.bias)
            y = F.batch_norm(block.conv(y), mean, *weights, False, 0.1, 1e-5)
            return i + 1, y, mean * 1.5

        count = torch.zeros((), dtype=torch.int64)
        start = (count, x, block.bn.running_mean.clone())
        return while_loop(lambda i, y, m: i < 3, body, start)[1]

    def stepping(blocks: Any, x: torch.Tensor) -> torch.Tensor:
        block = blocks[0]

        def step(y: torch.Tensor, mean: torch.Tensor) -> Any:
            weights = (block.bn.running_var, block.bn.weight, block.bn.bias)
            return F.batch_norm(block.conv(y), mean, *weights, False, 0.1, 1e-5), y.sum()

        means = torch.stack([block.bn.running_mean, block.bn.running_mean * 2])
        return scan(step, x, means)[0]

    for forward in (carried, stepping):
        model = net(forward, Block())
        function, capture = compiled(model)
        with torch.no_grad():
            assert relative(function(X), model(X)) < 1e-14
        assert capture.reports[0].count("folded") == 0


def test_statistics_of_a_checkpointed_block_in_training() -> None:
    model, twin = (NETS["checkpoint"][0]() for _ in range(2))
    reports: list[Any] = []
    options = {"inner": "aot_eager", "report": reports.append}
    torch._dynamo.reset()
    function = torch.compile(model.train(), backend="bnfx", options=options)
    twin.train()
    for _ in range(2):
        function(X).square().sum().backward()
        twin.blocks[0](X).square().sum().backward()
    assert reports[0].count("folded") == 0
    for name, value in twin.state_dict().items():
        assert torch.allclose(value.double(), model.state_dict()[name].double()), name


def test_a_weight_that_a_region_computes() -> None:
    model = net(in_turn, Block(), Block())
    for block in model.blocks:
        weight_norm(block.conv)
    function, capture = compiled(model)
    with torch.no_grad():
        for _ in range(2):
            assert relative(function(X), model(X)) < 1e-14
            change(model)
    assert capture.reports[0].count("folded") == 2


def test_two_models_share_a_compiled_graph() -> None:
    first, second = net(in_turn, Block(), Block()), net(in_turn, Block(), Block())
    change(second)
    second.function = first.function
    function, capture = compiled(first)
    other = torch.compile(second, backend="bnfx", options=capture.options)
    with torch.no_grad():
        for _ in range(2):
            assert relative(function(X), first(X)) < 1e-14
            assert relative(other(X), second(X)) < 1e-14


UNCAPTURED = pytest.mark.skipif(
    TORCH >= (2, 15),
    reason="Dynamo's assertion in torch 2.15: a region that is given an open number",
)


@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=UNCAPTURED)])
def test_other_sizes(dynamic: bool | None) -> None:
    """With ``dynamic=True``, eps and momentum are operands, too."""
    model = net(in_turn, Block(), Block())
    torch._dynamo.reset()
    reports: list[Any] = []
    options = {"inner": "eager", "report": reports.append}
    function = torch.compile(model, backend="bnfx", dynamic=dynamic, options=options)
    with torch.no_grad():
        for size in ((2, 4, 6, 5), (3, 4, 9, 7), (1, 4, 5, 5)):
            x = torch.randn(size, dtype=torch.float64)
            assert relative(function(x), model(x)) < 1e-14
            change(model)
    assert all(report.count("folded") == 2 for report in reports)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("weights", ["auto", "frozen"])
def test_by_inductor(weights: str) -> None:
    model = net(in_turn, Block(), Block()).float()
    torch._dynamo.reset()
    function = torch.compile(model, backend="bnfx", options={"weights": weights})
    x = X.float()
    with torch.no_grad():
        for _ in range(2):
            assert relative(function(x), model(x)) < 1e-6
            change(model)


@pytest.mark.slow
def test_fold_gives_a_graph() -> None:
    for name in ("branches", "loop"):
        model = NETS[name][0]()
        folded = bnfx.fold(model, X, keep="graph")
        assert sum(map(count_batch_norms, graphs(folded))) == 0
        with torch.no_grad():
            assert relative(folded(X), model(X)) < 1e-14


@pytest.mark.parametrize("name", ["branches", "loop", "map", "scan", "regions", "checkpoint"])
def test_a_program_keeps_its_bodies(name: str) -> None:
    """Or has none: ``torch.export`` traces through what is there to compile or to save memory."""
    model = NETS[name][0]()
    with torch.no_grad():
        program = torch.export.export(model, (X,))
    verdicts = [verdict for verdict in bnfx.explain(program).verdicts if _is_norm(verdict)]
    assert len(verdicts) == NETS[name][1]
    for verdict in verdicts:
        if verdict.outcome is not bnfx.Outcome.FOLDED:
            assert [refusal.code for refusal in verdict.refusals] == [bnfx.Code.NESTED_GRAPH]
    with torch.no_grad():
        assert relative(bnfx.fold(program).module()(X), model(X)) < 1e-14
