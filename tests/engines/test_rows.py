"""Each row of the table against PyTorch, over a grid, in each engine; a row with no case fails."""

from __future__ import annotations

import itertools
import pkgutil
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support import HEAVY
from torch import fx
from torch.nn import functional as F

from bnfx.inner.base import EngineRefusal
from bnfx.inner.engines.aten_graph import aten_graph
from bnfx.inner.engines.translate import TABLE, translated
from bnfx.inner.onnxruntime.onnx_ops import OnnxOps

Call = Callable[..., Any]
ENGINES = {
    "openvino": "bnfx.inner.openvino.session.OpenVino",
    "onnxruntime": "bnfx.inner.onnxruntime.onnx_session.OnnxRuntime",
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    return pkgutil.resolve_name(ENGINES[request.param])({})


X1, X2, X3 = (2, 4, 11), (2, 4, 9, 7), (1, 4, 5, 6, 7)
Case = tuple[str, Call, tuple[tuple[int, ...], ...]]


def _convolutions() -> list[Case]:
    cases: list[Case] = []
    grid = itertools.product((1, 2), (0, 1), (1, 2), (1, 2, 4))
    for s, p, d, g in grid:
        name, k = f"s{s}p{p}d{d}g{g}", {"stride": s, "padding": p, "dilation": d, "groups": g}
        for rank, size in enumerate((X1, X2, X3), 1):
            conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
            back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
            kernel = (2,) * rank
            for bias in ((), ((8,),)):
                weight = (8, 4 // g, *kernel)
                cases.append(
                    (f"conv{rank}-{name}-{len(bias)}", _with(conv, **k), (size, weight, *bias))
                )
            weight = (4, 8 // g, *kernel)
            extra = {"output_padding": 1} if max(s, d) > 1 else {}
            cases.append((f"back{rank}-{name}", _with(back, **k, **extra), (size, weight, (8,))))
    return cases


def _with(call: Call, **given: Any) -> Call:
    return lambda *args: call(*args, **given)


def _pools() -> list[Case]:
    cases: list[Case] = []
    for k, s, p, ceil in itertools.product((2, 3), (1, 2, 3), (0, 1), (False, True)):
        name, given = f"k{k}s{s}p{p}{ceil}", {"stride": s, "padding": p, "ceil_mode": ceil}
        for size, top, mean in (
            (X1, F.max_pool1d, None),
            (X2, F.max_pool2d, F.avg_pool2d),
            (X3, F.max_pool3d, F.avg_pool3d),
        ):
            cases.append((f"max{len(size)}-{name}", _with(top, kernel_size=k, **given), (size,)))
            if mean is not None and not ceil:
                for pad in (True, False):
                    call = _with(mean, kernel_size=k, count_include_pad=pad, **given)
                    cases.append((f"avg{len(size)}-{name}{pad}", call, (size,)))
    cases.append(("max-dilated", _with(F.max_pool2d, kernel_size=2, dilation=2), (X2,)))
    for out, size in ((1, X2), ((3, 7), X2), (3, (1, 2, 6, 9))):
        cases.append((f"adaptive-{out}", _with(F.adaptive_avg_pool2d, output_size=out), (size,)))
    cases.append(("adaptive-3d", _with(F.adaptive_avg_pool3d, output_size=1), (X3,)))
    return cases


UNARY: dict[str, Call] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "neg": torch.neg,
    "exp": torch.exp,
    "silu": F.silu,
    "mish": F.mish,
    "sqrt": lambda x: torch.sqrt(x * x),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu,
    "gelu-tanh": _with(F.gelu, approximate="tanh"),
    "elu": F.elu,
    "elu-2": _with(F.elu, alpha=2.0),
    "leaky": _with(F.leaky_relu, negative_slope=0.2),
    "leaky-above": _with(F.leaky_relu, negative_slope=1.5),
    "leaky-negative": _with(F.leaky_relu, negative_slope=-0.5),
    "clamp": _with(torch.clamp, min=-0.3, max=0.4),
    "clamp-low": _with(torch.clamp, min=-0.3),
    "clamp-high": _with(torch.clamp, max=0.3),
    "hardtanh": F.hardtanh,
    "numbers": lambda x: (3 - (x * 2 + 1) / 3) - 0.5,
    "alpha": lambda x: torch.add(x, x, alpha=2),
    "sub-alpha": lambda x: torch.sub(x, x * x, alpha=3),
    "softmax": _with(F.softmax, dim=1),
    "softmax-last": _with(F.softmax, dim=-1),
    "mean": lambda x: x.mean((2, 3)),
    "mean-keep": lambda x: x.mean(-1, keepdim=True),
    "sum": lambda x: x.sum((1, -1)),
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "view": lambda x: x.reshape(2, -1) * 1,
    "flatten": lambda x: x.flatten(1) + 1,
    "permute": lambda x: x.permute(0, 2, -1, 1) * 2,
    "transpose": lambda x: x.transpose(1, -1) + 1,
    "squeeze": lambda x: x[:, :1].squeeze(1) + 1,
    "unsqueeze": lambda x: x.unsqueeze(-1) + 1,
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1) + 1,
    "select": lambda x: x[:, -1] + 1,
    "slice": lambda x: x[:, 1:-1, ::2, -3:] + 1,
    "slice-far": lambda x: x[:, -99:2, 1:99] * 2,
    "cat": lambda x: torch.cat([x, x * 2], -1),
    "cat-0": lambda x: torch.cat([x, x + 1, x]),
    "chunk": lambda x: x.chunk(2, 1)[1] * x.chunk(2, 1)[0],
    "split": lambda x: x.split([1, 3], 1)[1] + 1,
    "split-uneven": lambda x: x.split(3, 1)[1] + 1,
    "pad": _with(F.pad, pad=(1, 2, 0, 3), value=0.5),
    "pad-channels": _with(F.pad, pad=(0, 0, 0, 0, 1, 0)),
    "nearest": _with(F.interpolate, scale_factor=2),
    "nearest-3": _with(F.interpolate, size=(27, 21)),
    "bilinear": _with(F.interpolate, size=(5, 13), mode="bilinear"),
    "bilinear-corners": _with(F.interpolate, size=(13, 5), mode="bilinear", align_corners=True),
    "bilinear-scale": _with(F.interpolate, scale_factor=2, mode="bilinear"),
    "in-place": lambda x: (x * 2).relu_().add_(1),
    "matrix-t": lambda x: x[0, 0].t() + 1,
    "global-last": lambda x: (
        F.adaptive_avg_pool2d(x.contiguous(memory_format=torch.channels_last), 1) * 2
    ),
    "full": lambda x: x + torch.full((7,), 0.5, dtype=x.dtype),
    "copied": lambda x: torch.ops.aten._to_copy(x, dtype=x.dtype) + 1,
    "clone": lambda x: x.clone() * 1,
    "one": lambda x: F.interpolate(x, size=(1, 1), mode="bilinear", align_corners=True),
}


def _fill(x: torch.Tensor) -> torch.Tensor:
    x[:, 1:3].mul_(3)
    return x + 0


BINARY: list[Case] = [
    (name, call, ((2, 4, 9, 7), other))
    for name, call in {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "div": lambda x, y: x / (y * y + 1),
    }.items()
    for other in ((4, 1, 1), (7,), (2, 1, 9, 1), (1, 3, 2, 4, 9, 7))
] + [
    ("linear", F.linear, ((3, 4), (5, 4), (5,))),
    ("linear-3d", F.linear, ((2, 3, 4), (5, 4), (5,))),
    ("linear-no-bias", F.linear, ((3, 4), (5, 4))),
    ("mm", torch.mm, ((3, 4), (4, 5))),
    ("bmm", torch.bmm, ((2, 3, 4), (2, 4, 5))),
    ("matmul", torch.matmul, ((2, 1, 3, 4), (3, 4, 5))),
    (
        "batch-norm",
        lambda x, m, v, w, b: F.batch_norm(x, m, v * v, w, b, eps=0.1),
        (X2, (4,), (4,), (4,), (4,)),
    ),
    ("batch-norm-plain", lambda x, m, v: F.batch_norm(x, m, v * v), (X1, (4,), (4,))),
]
GRID = _convolutions() + _pools()
CASES = GRID + [(n, c, (X2,)) for n, c in UNARY.items()] + BINARY
TOO_MUCH_PADDING = [call for name, call, _ in CASES if re.match(r"back\d-s1p\dd2", name)]
PARAMS = [
    pytest.param(call, shapes, id=name, marks=HEAVY if place < len(GRID) and place % 4 else ())
    for place, (name, call, shapes) in enumerate(CASES)
]


class _Calls(torch.nn.Module):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.meta: dict[str, Any] = {}  # as graphs have it

    def forward(self, *args: Any) -> Any:
        return (self.call(*args),)


def _run(engine: Any, call: Call, args: Sequence[Any]) -> torch.Tensor:
    module: Any = _Calls(call)
    return engine.build(aten_graph(module, args).bound(module))(args, None)[0]


def _error(engine: Any, call: Call, args: list[torch.Tensor]) -> float:
    ours = _run(engine, call, args)
    theirs = call(*(each.double() for each in args))
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("call", "shapes"), PARAMS)
def test_a_row_is_right(engine: Any, call: Call, shapes: tuple[tuple[int, ...], ...]) -> None:
    torch.manual_seed(0)
    args = [torch.randn(size) for size in shapes]
    if call in TOO_MUCH_PADDING and engine.name == "ONNX Runtime":
        with pytest.raises(EngineRefusal, match="output padding"):
            _run(engine, call, args)
        return
    assert _error(engine, call, args) < 2e-6
    if len(shapes) == 1 and len(shapes[0]) == 4:
        assert _error(engine, call, [args[0].to(memory_format=torch.channels_last)]) < 2e-6


@pytest.mark.slow
def test_no_row_is_untested() -> None:
    """What torch no longer emits needs no row."""
    left = {str(op) for op in TABLE}
    for _, call, shapes in reversed(CASES):
        if left:
            traced = aten_graph(_Calls(call), [torch.randn(size) for size in shapes])  # type: ignore[arg-type]
            left -= {str(node.target) for node in traced.graph.graph.nodes}
    assert left == set()


REFUSED: dict[str, tuple[Call, tuple[Any, ...]]] = {
    "double": (F.relu, (torch.randn(3, dtype=torch.float64),)),
    "half": (F.relu, (torch.randn(3).half(),)),
    "bfloat16-inside": (lambda x: x.bfloat16().relu().float(), (torch.randn(3),)),
    "integers": (lambda x: x + 1, (torch.arange(3),)),
    "integers-rounded": (lambda x: torch.div(x, 2.0, rounding_mode="floor"), (torch.arange(3),)),
    "integers-padded": (lambda x: F.pad(x, (1, 1), value=1).float(), (torch.arange(3),)),
    "integers-moved-out": (lambda x: x.t().clone(), (torch.ones(2, 3, dtype=torch.int64),)),
    "integers-compared": (lambda x: (x > 1).float(), (torch.arange(3),)),
    "integers-and-half": (lambda x: x * 0.5, (torch.arange(3).half(),)),
    "double-narrowed": (lambda x: x.float() * 2, (torch.randn(3, dtype=torch.float64),)),
    "integers-to-half": (lambda x: (x.half() * 2).float(), (torch.arange(3),)),
    "bool-mask": (lambda x: torch.where(x > 0, x, 2 * x), (torch.randn(3),)),
    "promotion": (lambda x, y: x + y, (torch.randn(3), torch.randn(3).double())),
    "empty": (F.relu, (torch.randn(0, 3),)),
    "view-of-input": (lambda x: x.view(-1), (torch.randn(2, 3),)),
    "input": (lambda x: x, (torch.randn(3),)),
    "writes": (lambda x: x.mul_(2) + 1, (torch.randn(3),)),
    "writes-to-a-slice": (lambda x: _fill(x * 2), (torch.randn(2, 4, 3, 3),)),
    "other-strides": (
        lambda x: (x * 2).as_strided_((3, 3), (1, 3)) + 1,
        (torch.randn(3, 3),),
    ),
    "fewer-numbers": (lambda x: (x * 2).as_strided_((2, 3), (3, 1)) + 1, (torch.randn(3, 3),)),
    "shifted": (lambda x: (x * 2).as_strided_((3,), (1,), 1) + 1, (torch.randn(4),)),
    "random": (F.dropout, (torch.randn(3),)),
    "average-ceil": (
        _with(F.avg_pool2d, kernel_size=2, ceil_mode=True),
        (torch.randn(1, 1, 5, 5),),
    ),
    "divisor": (_with(F.avg_pool2d, kernel_size=2, divisor_override=3), (torch.randn(1, 1, 4, 4),)),
    "uneven": (_with(F.adaptive_avg_pool2d, output_size=3), (torch.randn(1, 1, 5, 5),)),
    "odd-scale": (
        _with(F.interpolate, scale_factor=1.7, mode="bilinear", recompute_scale_factor=False),
        (torch.randn(1, 1, 5, 5),),
    ),
    "indices": (
        lambda x: torch.stack([v.float() for v in F.max_pool2d_with_indices(x, 2)]),
        (torch.randn(1, 1, 4, 4),),
    ),
    "statistics": (lambda x: F.batch_norm(x, None, None, training=True), (torch.randn(4, 3),)),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float16])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.float() * 2,
        lambda x: (x.to(torch.float32) - 3).relu(),
        lambda x: x.float() + x * torch.full((3, 5), 1.0),
        lambda x: x / torch.full((5,), 3.0),
        lambda x: x.t()[1:].unsqueeze(0).float() + 1,
    ],
)
def test_inputs_of_other_dtypes_are_converted(engine: Any, call: Call, dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1, 2, 100, 255]).expand(3, 5).to(dtype)
    ours, theirs = _run(engine, call, [x]), call(x)
    assert ours.dtype == theirs.dtype
    assert float((ours - theirs).abs().max()) <= 1e-6 * float(theirs.max())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_tested_is_refused(engine: Any, name: str) -> None:
    call, args = REFUSED[name]
    with pytest.raises(EngineRefusal):
        _run(engine, call, args)


def test_a_graph_module_keeps_its_weights(engine: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).requires_grad_(False)
    traced = fx.symbolic_trace(module)
    traced.graph.output_node().args = ((traced.graph.output_node().args[0],),)
    traced.recompile()
    x = torch.randn(1, 3, 6, 6)
    ours = engine.build(aten_graph(traced, [x]).bound(traced))([x], None)[0]
    assert float((ours - module(x)).abs().max()) < 1e-5


class _Affine(torch.nn.Module):
    """Args: how it computes from ``(x, scale, shift)``; the sizes of these two."""

    def __init__(self, call: Call, *sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.call = call
        for name, size in zip(("scale", "shift"), sizes, strict=True):
            self.register_buffer(name, torch.randn(size))

    def forward(self, x: torch.Tensor) -> Any:
        return (self.call(x.relu(), self.scale, self.shift),)


C, BATCHED, LAST, WHOLE = (4, 1, 1), (1, 4, 1, 1), (7,), (2, 4, 9, 7)
AFFINE: dict[str, tuple[Call, tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]] = {
    "plain": (lambda x, a, b: x * a + b, X2, C, C, True),
    "turned": (lambda x, a, b: a * x + b, X2, BATCHED, C, True),
    "batched": (lambda x, a, b: x * a + b, X2, C, BATCHED, True),
    "rank-3": (lambda x, a, b: x * a + b, X1, (4, 1), (4, 1), False),
    "another-axis": (lambda x, a, b: x * a + b, X2, LAST, C, False),
    "shift-of-another-axis": (lambda x, a, b: x * a + b, X2, C, LAST, False),
    "channels-that-grow": (lambda x, a, b: x * a + b, (2, 1, 9, 7), (1, 1, 1), C, False),
    "scale-that-grows": (lambda x, a, b: x * a + b, (2, 1, 9, 7), C, C, False),
    "a-product-each": (lambda x, a, b: (x * a + b) * (x * a).abs(), X2, C, C, True),
    "product-read-twice": (lambda x, a, b: (lambda y: (y + b) * y)(x * a), X2, C, C, False),
    "alpha": (lambda x, a, b: torch.add(x * a, b, alpha=2), X2, C, C, False),
    "whole": (lambda x, a, b: x * a + b, X2, WHOLE, C, False),
}


@pytest.mark.parametrize("name", AFFINE)
def test_a_scale_and_a_shift_are_one_operator(engine: Any, name: str) -> None:
    torch.manual_seed(0)
    call, size, scale, shift, is_one = AFFINE[name]
    module = _Affine(call, scale, shift)
    traced = fx.symbolic_trace(module)
    x = torch.randn(size)
    graph = aten_graph(traced, [x]).bound(traced)
    theirs = call(x.double().relu(), module.scale.double(), module.shift.double())
    ours = engine.build(graph)([x], None)[0]
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 2e-6
    if engine.name == "ONNX Runtime":
        ops = OnnxOps()
        found = translated(graph, ops)
        onnx = pytest.importorskip("onnx")
        content = ops.model(found.parameters, found.results)
        written = [node.op_type for node in onnx.load_from_string(content).graph.node]
        assert ("BatchNormalization" in written) is is_one
        assert ("Add" in written) is not is_one
