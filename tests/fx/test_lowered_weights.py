"""What becomes of weights: in which dtype and shape they are stored, and what read the old ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.traced_nets import X, called, folded, parameters, traced
from support import relative
from torch import fx, nn

from bnfx.passes.algebra import Source
from bnfx.passes.fx.lowering.bind import fill
from bnfx.passes.fx.lowering.slots import Slot
from bnfx.passes.fx.rewrite import rewrite
from bnfx.passes.report import Outcome, RewriteWarning


def weights_computed(n: Any, x: Any) -> Any:
    y = F.conv2d(x, torch.mul(torch.exp(n.other.weight), 2), n.other.bias)
    more = (n.bn.running_mean, n.bn.running_var, n.bn.weight, n.bn.bias)
    return F.batch_norm(y, *more, False, 0.1, 1e-5)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("attributes", "x conv2d_weight conv2d_bias conv2d output"),
        ("placeholders", "{inputs} x conv2d_weight conv2d_bias conv2d output"),
        ("traced", None),
    ],
)
def test_what_was_read_for_old_weights_goes(form: Any, expected: str | None) -> None:
    net, module = traced(weights_computed)
    tensors = {} if form == "attributes" else parameters(module)
    rewritten = rewrite(module, tensors, form=form)
    weights = rewritten.evaluate() if form != "traced" else []
    result, inputs = rewritten.module, " ".join(tensors)
    if expected is not None:
        assert called(result) == expected.format(inputs=inputs)
    else:
        assert called(result).count("exp") == 1
    if form == "placeholders":
        (conv,) = result.graph.find_nodes(op="call_function", target=torch.conv2d)
        assert len(conv.args) == 3  # as it was written
    assert weights is not None
    if form == "attributes":
        fill(result, {s.name: w for s, w in zip(rewritten.slots, weights, strict=True)})
        weights = []
    assert bool(result.state_dict()) == (form == "attributes")
    with torch.no_grad():
        assert relative(result(*tensors.values(), X, *weights), net(X)) < 1e-13


def test_what_was_not_read_before_stays() -> None:
    _, module = traced(lambda n, x: n.bn(n.conv(x)))
    graph = module.graph
    with graph.inserting_before(next(iter(graph.nodes)).next):
        graph.get_attr("bn.weight")
        graph.call_method("item", (graph.get_attr("bn.num_batches_tracked"),))
    result = folded(module).module
    assert called(result) == "x bn.weight bn.num_batches_tracked item conv output"


def test_a_rank_that_is_read() -> None:
    net, module = traced(lambda n, x: n.bn(n.conv(x)) * n.conv(x).dim() + n.other(x).dim())
    result = folded(module).module
    with torch.no_grad():
        assert relative(result(X), net(X)) < 1e-13


@pytest.mark.parametrize("form", ["placeholders", "traced"])
def test_a_layer_whose_weights_are_inputs_is_called_as_a_function(form: Any) -> None:
    """A graph that an op runs is written so, whoever made it."""
    net, module = traced(lambda n, x: n.bn2(n.other(n.bn(n.conv(x)).tanh())))
    rewritten = rewrite(module, {}, form=form)
    weights = (rewritten.evaluate() or []) if form == "placeholders" else []
    assert "conv conv2d" not in called(rewritten.module)
    assert rewritten.report.count(Outcome.FOLDED) == 2
    with torch.no_grad():
        assert relative(rewritten.module(X, *weights), net(X)) < 1e-13
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect").double().eval()
    _, module = traced(lambda n, x: n.bn(n.conv(x)), conv=conv)
    with pytest.warns(RewriteWarning, match="no function pads as conv does"):
        assert rewrite(module, {}, form=form).module is module
    assert folded(module).report.count(Outcome.FOLDED) == 1


def test_a_graph_without_inputs() -> None:
    _, module = traced(lambda n, x: n.bn(F.conv2d(n.scale[None], n.conv.weight)))
    placeholder, *_ = module.graph.nodes
    module.graph.erase_node(placeholder)
    module.recompile()
    rewritten = rewrite(module, {}, form="placeholders")
    if rewritten.slots:
        assert rewritten.module(*rewritten.evaluate()).shape == (1, 4, 1, 1)


def merged(n: Any, x: Any) -> Any:
    a, b = n.wide(x), n.conv(x)
    return n.bn(a + b)


# What runs, what the model has besides, what is called then, and the slots: names and shapes.
MAPS: dict[str, tuple[Callable[..., Any], dict[str, Any], str, str]] = {
    "a map": (lambda n, x: n.bn(x).tanh(), {}, "mul add tanh", "bn_scale[4,1,1] bn_shift[4,1,1]"),
    "a scale": (
        lambda n, x: ((x * n.scale) * n.scale).tanh(),
        {},
        "mul tanh",
        "mul_scale[4,1,1]",
    ),
    "a shift": (
        lambda n, x: ((x + n.scale) - n.bn.bias.exp()[:, None, None]).tanh(),
        {},
        "add tanh",
        "add_shift[4,1,1]",
    ),
    "a number": (
        lambda n, x: (x * 2 * 3 * n.number * n.number).tanh(),
        {},
        "mul tanh",
        "mul_scale[]",
    ),
    "numbers beside a map": (
        lambda n, x: ((x * 2) * 3).tanh() + n.bn(x).tanh(),
        {},
        "mul tanh mul add tanh add",
        "bn_scale[4,1,1] bn_shift[4,1,1]",
    ),
    "no bias": (
        lambda n, x: n.bare(x) * n.scale,
        {},
        "bare",
        "bare.weight[4,4,1,1]",
    ),
    "another operator": (merged, {}, "conv2d", "add_weight[4,4,3,3] add_bias[4]"),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps(name: str) -> None:
    run, more, calls, slots = MAPS[name]
    bare = nn.Conv2d(4, 4, 1, bias=False).double().eval()
    wide = nn.Conv2d(4, 4, 3, padding=1).double().eval()
    number = nn.Parameter(torch.tensor(0.75, dtype=torch.float64))
    net, module = traced(run, **{"bare": bare, "wide": wide, "number": number, **more})
    rewritten = folded(module)
    ops = (node for node in rewritten.module.graph.nodes if node.op.startswith("call_"))
    assert " ".join(str(getattr(n.target, "__name__", n.target)) for n in ops) == calls
    shown = (f"{s.name}{list(s.expression.shape)}".replace(" ", "") for s in rewritten.slots)
    assert " ".join(shown) == slots
    with torch.no_grad():
        assert relative(rewritten.module(X), net(X)) < 1e-13


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.float32, torch.float64, None])
def test_the_dtype_of_a_map(stored: torch.dtype, given: torch.dtype | None) -> None:
    """It is the statistics' where that of the input is not known."""
    net, module = traced(lambda n, x: n.bn(x))
    net.bn.to(stored)
    module.bn.to(stored)
    for node in module.graph.nodes:
        if given is None:
            node.meta.pop("val", None)
        else:
            node.meta["val"] = node.meta["val"].to(given)
    rewritten = folded(module)
    wide = torch.float64 in ((stored,) if given is None else (given,))
    assert [slot.dtype for slot in rewritten.slots] == ["float64" if wide else "float32"] * 2
    assert rewritten.module(X.to(given or stored)).dtype == (given or stored)


def test_a_slot_by_itself() -> None:
    slot = Slot("s", Source("w", (2,), "float32"), "float32")
    assert not slot.is_parameter
    assert not slot.requires_grad


@pytest.mark.parametrize("as_item", [True, False])
def test_numbers_that_are_inputs(as_item: bool) -> None:
    graph = fx.Graph()
    names = ("x", "weight", "mean", "var", "item", "bias", "eps")
    x, weight, mean, var, item, bias, eps = (graph.placeholder(name) for name in names)
    x.meta["val"] = X
    conv = graph.call_function(F.conv2d, (x, weight))
    conv.meta["val"] = X
    number = graph.call_method("item", (eps,)) if as_item else eps
    args = (conv, mean, var, item, bias, False, 0.1, number)
    norm = graph.call_function(F.batch_norm, args)
    norm.meta["val"] = X
    graph.output(norm)
    module = fx.GraphModule({}, graph)
    tensors = {"weight": torch.randn(4, 4, 1, 1).double(), "mean": X[0, 0, 0, :4]}
    tensors |= {"var": X[0, 0, 0, :4].abs() + 0.5, "item": X[0, 1, 0, :4], "bias": X[0, 2, 0, :4]}
    scalars = {"eps": torch.tensor(0.5, dtype=torch.float64)}
    rewritten = rewrite(module, tensors, form="placeholders", scalars=scalars)
    assert called(rewritten.module) == " ".join((*names, "conv2d_weight conv2d_bias conv2d output"))
    inputs = [X, *(tensors[name] for name in names[1:-1]), scalars["eps"]]
    want = module(*inputs[:-1], 0.5) if not as_item else module(*inputs)
    assert relative(rewritten.module(*inputs, *(rewritten.evaluate() or [])), want) < 1e-13


def test_a_rank_of_what_is_not_computed() -> None:
    def run(n: Any, x: Any) -> Any:
        a, b = n.conv(x), n.other(x)
        return torch.stack([a + b] * a.dim()), b.dim(), x.dim()

    net, module = traced(run)
    result = folded(module).module
    assert called(result).split().count("dim") == 1  # of what is computed
    want, got = net(X), result(X)
    assert got[1] == want[1] == 4
    with torch.no_grad():
        assert relative(got[0], want[0]) < 1e-13
