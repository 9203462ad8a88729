"""For each row of the table: calls over a grid of arguments, ranks and special values.

A call is ``(function of tensors, tensors)``; it is traced, so the function may be anything that
leads to the row's operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

aten = torch.ops.aten
Case = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]

NAN, INF = float("nan"), float("inf")
SPECIAL = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 3.0, -3.0, 6.0, -6.0])
EDGES = torch.tensor([1e-6, -1e-6, 2.9, -2.9, 3.1, -3.1, 20.0, -20.0, 88.0, -88.0, 1e3, -1e3])


def _inputs() -> list[torch.Tensor]:
    """Of ranks 1 to 4, strided in several ways, with special values."""
    return [
        torch.cat([SPECIAL, EDGES]),
        torch.randn(3, 5).t(),
        torch.randn(2, 3, 4)[:, ::2],
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    ]


def _each(function: Callable[..., Any]) -> list[Case]:
    return [(function, (x,)) for x in _inputs()]


def _pairs(function: Callable[..., Any]) -> list[Case]:
    special = torch.cat([SPECIAL, EDGES])
    return [
        (function, (special[:, None], special[None])),
        (function, (torch.randn(2, 3, 4), torch.randn(3, 1))),
        (function, (torch.randn(4), torch.randn(2, 1, 4))),
        (function, (torch.randn(2, 3).t(), torch.tensor(1.5))),
    ]


def _numbered(op: Callable[..., Any]) -> list[Case]:
    """With numbers about which a compiler may know too much; of 1e-50, float32 makes 0."""
    return [
        (lambda x, n=n: op(x, n), (torch.cat([SPECIAL, EDGES]),))
        for n in (0.0, -0.0, 1, 1e-50, 1e300, INF, NAN)
    ] + [(lambda x: op(x, torch.tensor(0.0, dtype=x.dtype)), (torch.cat([SPECIAL, EDGES]),))]


def _arithmetic() -> dict[str, list[Case]]:
    def scaled(op: Any) -> list[Case]:
        return [
            *_pairs(op),
            *_pairs(lambda x, y: op(x, y, alpha=-3)),
            *_pairs(lambda x, y: op(x, y, alpha=0.3)),
            *_each(lambda x: op(x, 2)),
            *_each(lambda x: op(x, 0.1, alpha=2)),
            *_numbered(op),
            *_each(lambda x: op(op(x, 1e4), -1e4)),  # rounded in between
        ]

    def plain(op: Any) -> list[Case]:
        return [
            *_pairs(op),
            *_each(lambda x: op(x, 3)),
            *_each(lambda x: op(x, -0.7)),
            *_numbered(op),
        ]

    return {
        "add.Tensor": scaled(torch.add),
        "sub.Tensor": scaled(torch.sub),
        "mul.Tensor": plain(torch.mul),
        "div.Tensor": plain(torch.div),
    }


def _unary() -> dict[str, list[Case]]:
    functions: dict[str, Callable[..., Any]] = {
        "neg.default": torch.neg,
        "abs.default": torch.abs,
        "exp.default": torch.exp,
        "sqrt.default": torch.sqrt,
        "rsqrt.default": torch.rsqrt,
        "reciprocal.default": torch.reciprocal,
        "tanh.default": torch.tanh,
        "erf.default": torch.erf,
        "pow.Tensor_Scalar": lambda x: x**2,
        "sigmoid.default": torch.sigmoid,
        "silu.default": F.silu,
        "hardsigmoid.default": F.hardsigmoid,
        "hardswish.default": F.hardswish,
        "relu.default": torch.relu,
    }
    return {name: _each(function) for name, function in functions.items()}


def _largest() -> dict[str, list[Case]]:
    hard = torch.randn(4, 13)
    hard[0] = SPECIAL
    hard[1], hard[2, 3] = -INF, INF
    inputs = (torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), hard, hard.t())

    def over(op: Callable[..., Any], *given: dict[str, Any]) -> list[Case]:
        return [(lambda x, o=o: op(x, **o), (x,)) for o in given for x in inputs]

    axes: tuple[dict[str, Any], ...] = ({"dim": 0}, {"dim": -1, "keepdim": True})
    several: tuple[dict[str, Any], ...] = (*axes, {"dim": (0, 1)}, {"dim": (-1, 0)}, {"dim": ()})
    return {
        # Of 0 and -0, PyTorch's own answer depends on the size.
        "maximum.default": _pairs(lambda x, y: torch.maximum(x, y) + 0.0),
        "minimum.default": _pairs(lambda x, y: torch.minimum(x, y) + 0.0),
        "amax.default": over(torch.amax, *several),
        "amin.default": over(torch.amin, *several),
        "max.dim": over(lambda x, **o: torch.max(x, **o)[0], *axes),
        "min.dim": over(lambda x, **o: torch.min(x, **o)[0], *axes),
        "max.default": over(torch.max, {}),
        "min.default": over(torch.min, {}),
    }


def _bounded() -> dict[str, list[Case]]:
    clamps: list[dict[str, float]] = [
        {"min": -0.5, "max": 0.5},
        {"min": 2.0, "max": -1.0},
        {"min": 0},
        {"max": 1},
        {"min": -INF, "max": INF},
        {"min": 0.25, "max": 0.25},
    ]
    return {
        # Of infinity, PyTorch's own answer depends on the dtype: NaN or infinity.
        "gelu.default": [
            (
                lambda x, kind=kind: F.gelu(x, approximate=kind),
                (x[x.abs() != INF] if x.dim() == 1 else x,),
            )
            for kind in ("none", "tanh")
            for x in _inputs()
        ],
        "leaky_relu.default": [
            case
            for slope in (0.01, 0.3, -0.5)
            for case in _each(lambda x, slope=slope: F.leaky_relu(x, slope))
        ],
        "elu.default": [
            case
            for given in ((), (-1.0,), (0.0,), (1.67326, 1.0507), (0.7, 1.0, 1 / 0.7))
            for case in _each(lambda x, given=given: aten.elu(x, *given))
        ],
        "hardtanh.default": [*_each(F.relu6), *_each(lambda x: F.hardtanh(x, -0.3, 0.9))],
        "clamp.default": [
            case for given in clamps for case in _each(lambda x, given=given: x.clamp(**given))
        ],
        "clamp_min.default": [
            *_each(lambda x: x.clamp_min(0.2)),
            *_each(lambda x: x.clamp_min(-2)),
        ],
        "clamp_max.default": [
            *_each(lambda x: x.clamp_max(0.2)),
            *_each(lambda x: x.clamp_max(-2)),
        ],
    }


def _slices() -> Iterator[Case]:
    for start, end, step in (
        (0, 2, 1),
        (1, None, 1),
        (-2, None, 1),
        (None, -1, 1),
        (0, 99, 2),
        (-99, 3, 1),
        (1, -1, 2),
    ):
        for axis in (0, -1, 1):
            yield (
                lambda x, a=axis, s=start, e=end, t=step: aten.slice.Tensor(x, a, s, e, t),
                (torch.randn(4, 5, 6),),
            )


def _views() -> dict[str, list[Case]]:
    x, y, v = torch.randn(2, 3, 4), torch.randn(2, 1, 4, 1), torch.randn(5)
    strided = torch.randn(4, 3, 2).permute(2, 1, 0)
    return {
        "view.default": [
            (lambda x: x.view(6, 4), (x,)),
            (lambda x: x.view(-1), (x,)),
            (lambda x: x.view(2, 1, 3, -1, 2), (x,)),
            (lambda x: x.view(1), (torch.randn(()),)),
            (lambda x: x.view(()), (torch.randn(1),)),
        ],
        "_unsafe_view.default": [(lambda x: aten._unsafe_view.default(x, [6, 4]), (x,))],
        "squeeze.dim": [(lambda x, d=d: x.squeeze(d), (y,)) for d in (1, -1, 0, -3)],
        "squeeze.dims": [(lambda x, d=d: x.squeeze(d), (y,)) for d in ((1, 3), (-1, 0))],
        "squeeze.default": [(lambda x: x.squeeze(), (y,)), (lambda x: x.squeeze(), (x,))],
        "unsqueeze.default": [
            (lambda x, d=d: x.unsqueeze(d), (one,))
            for one, dims in ((x, (0, -1, 2, -4)), (torch.randn(()), (0, -1)))
            for d in dims
        ],
        "permute.default": [
            (lambda x, d=d: x.permute(d), (one,))
            for one in (x, strided)
            for d in ((0, 1, 2), (2, 0, 1), (-1, -3, -2))
        ],
        "transpose.int": [
            (lambda x, a=a, b=b: x.transpose(a, b), (one,))
            for one in (x, strided)
            for a, b in ((0, 1), (-1, 0), (1, 1))
        ],
        "t.default": [(lambda x: x.t(), (torch.randn(2, 3),)), (lambda x: aten.t(x), (v,))],
        "expand.default": [
            (lambda x: x.expand(3, 2, -1, 4, 5), (y,)),
            (lambda x: x.expand(7, 5), (v,)),
            (lambda x: x.expand(-1, -1, -1), (x,)),
        ],
        "slice.Tensor": list(_slices()),
        "select.int": [
            (lambda x, a=a, i=i: x.select(a, i), (one,))
            for one in (x, strided)
            for a, i in ((0, 1), (1, -1), (-1, -2), (2, 3))
        ],
        "alias.default": [(lambda x: aten.alias(x), (x,))],
    }


def _pieces() -> dict[str, list[Case]]:
    x, strided = torch.randn(5, 6), torch.randn(6, 5).t()
    one, other = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    last = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    return {
        "split.Tensor": [
            (lambda x, n=n, d=d: tuple(x.split(n, d)), (source,))
            for source in (x, strided)
            for n, d in ((2, 0), (4, 1), (3, -1), (9, 0))
        ],
        "split_with_sizes.default": [
            (lambda x, d=d, s=s: tuple(x.split(s, d)), (x,))
            for d, s in ((0, [2, 3]), (-1, [1, 2, 3]))
        ],
        "unbind.int": [(lambda x, d=d: tuple(x.unbind(d)), (x,)) for d in (0, -1)],
        "cat.default": [
            (lambda x, y: torch.cat([x, y], 1), (one, other)),
            (lambda x, y: torch.cat([x, y, x], -2), (one, other)),
            (lambda x, y: torch.cat([x, y.transpose(1, 2)], 0), (one, torch.randn(1, 4, 3))),
            (lambda x: torch.cat([x, x.flip(1) * 1], 1), (last,)),
            (lambda x: torch.cat([x]), (one,)),
        ],
        "stack.default": [
            (lambda x, y, d=d: torch.stack([x, y], d), (torch.randn(2, 3), torch.randn(3, 2).t()))
            for d in (0, 1, -1, -3)
        ],
        "clone.default": [(lambda x: x.clone(), (last,)), (lambda x: x.clone(), (strided,))],
        "_to_copy.default": [
            (lambda x: aten._to_copy(x, memory_format=torch.channels_last), (last,)),
            (lambda x: aten._to_copy(x), (strided,)),
        ],
        "constant_pad_nd.default": [
            (lambda x, p=p, v=v: F.pad(x, p, value=v), (last,))
            for p in ((1, 2), (0, 1, 2, 0), (1, 0, 0, 1, 2, 3), (0, 0, 0, 0, 0, 0, 1, 1))
            for v in (0.0, 1.5, -INF, NAN)
        ],
    }


def _indexing() -> dict[str, list[Case]]:
    x = torch.randn(3, 4, 5, 6)

    def at(*index: Any) -> Case:
        return (lambda x: x[index], (x,))

    index = torch.tensor
    cases = [
        at(index([0, 2, 2])),
        at(slice(None), index([-1, 0])),
        at(slice(None), slice(None), index([0, 4, 1]), slice(None)),
        at(slice(None), slice(None), index([[0], [3]]), index([1, -6, 2])),
        at(slice(None), index([[[1]], [[0]]]), index([[4], [3]]), index([1, 2])),
        at([-1, -2]),
        at(slice(None), slice(None), slice(None), index([5], dtype=torch.int32)),
    ]
    places = (None, None, index([[0], [3], [3]]), index([1, 5]))
    unsafe = [
        (lambda x: aten._unsafe_index(x, places), (x,)),
        (lambda x: aten._unsafe_index(x, (None, index([3, 0, 0]))), (x,)),
    ]
    return {"index.Tensor": cases, "_unsafe_index.Tensor": unsafe}


def _products() -> dict[str, list[Case]]:
    cases: list[Case] = []
    for spatial, size in ((1, (9,)), (2, (9, 7)), (3, (5, 6, 7))):
        op = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
        back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
        for options in (
            {},
            {"stride": 2, "padding": 1},
            {"dilation": 2},
            {"groups": 2, "padding": 2},
            {"groups": 4, "stride": 2},
        ):
            groups = options.get("groups", 1)
            weight = torch.randn(8, 4 // groups, *(3 for _ in size))
            inputs = (torch.randn(2, 4, *size), weight, torch.randn(8))
            cases.append((lambda x, w, b, f=op, o=options: f(x, w, b, **o), inputs))
        cases.append(
            (
                lambda x, w, f=op: f(x, w, padding="same"),
                (inputs[0], torch.randn(3, 4, *(3 for _ in size))),
            )
        )
        for options in ({}, {"stride": 2, "padding": 1, "output_padding": 1}, {"stride": 3}):
            inputs = (
                torch.randn(2, 4, *size),
                torch.randn(4, 5, *(3 for _ in size)),
                torch.randn(5),
            )
            cases.append((lambda x, w, b, f=back, o=options: f(x, w, b, **o), inputs))
    last = torch.randn(2, 4, 9, 7).contiguous(memory_format=torch.channels_last)
    cases += [
        (F.conv2d, (last, torch.randn(6, 4, 1, 3).contiguous(memory_format=torch.channels_last))),
        (
            lambda x, w: F.conv2d(x, w, stride=(1, 2), padding=(0, 3)),
            (last, torch.randn(6, 4, 2, 3)),
        ),
        (lambda x, w: F.conv_transpose2d(x, w, groups=2), (last, torch.randn(4, 3, 2, 3))),
        (F.conv2d, (torch.full((1, 1, 4, 4), INF), torch.randn(1, 1, 2, 2).abs())),
    ]
    a, b, c = torch.randn(3, 4), torch.randn(4, 5), torch.randn(5)
    return {
        "convolution.default": cases,
        "mm.default": [(torch.mm, (a, b)), (torch.mm, (torch.randn(4, 3).t(), b))],
        "bmm.default": [(torch.bmm, (torch.randn(2, 3, 4), torch.randn(2, 5, 4).transpose(1, 2)))],
        "addmm.default": [
            (torch.addmm, (c, a, b)),
            (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=-2), (c, a, b)),
            (lambda c, a, b: torch.addmm(c, a, b, alpha=3), (torch.randn(3, 1), a, b)),
            (F.linear, (a, torch.randn(6, 4), torch.randn(6))),
        ],
    }


def _pools() -> dict[str, list[Case]]:
    x = torch.randn(2, 3, 9, 8)
    hard = x.clone()
    hard[0, 0, 3, 3], hard[0, 1], hard[1, 2, :4] = NAN, -INF, INF
    spatial: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (1, 3), "padding": (1, 0)},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": 2, "stride": 2, "ceil_mode": True, "padding": 1},
    ]
    inputs = (x, hard, x[0], x.contiguous(memory_format=torch.channels_last))
    most = [*spatial, {"kernel_size": 2, "dilation": 3}, {"kernel_size": 3, "dilation": (1, 2)}]
    means = [
        *(o for o in spatial if not o.get("ceil_mode")),
        {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True, "padding": (0, 0)},
    ]
    even = {"kernel_size": 3, "stride": 3, "ceil_mode": True}
    return {
        "max_pool2d_with_indices.default": [
            (lambda x, o=o: F.max_pool2d(x, **o), (one,)) for one in inputs for o in most
        ],
        "avg_pool2d.default": [
            (lambda x, o=o: F.avg_pool2d(x, **o), (one,)) for one in inputs for o in means[:-1]
        ]
        + [(lambda x: F.avg_pool2d(x, **even), (torch.randn(1, 2, 9, 6),))],
        "_adaptive_avg_pool2d.default": [
            (lambda x, s=s: F.adaptive_avg_pool2d(x, s), (one,))
            for one in inputs
            for s in ((3, 2), (9, 4), (3, 8))
        ],
    }


def _flat(*shape: int) -> list[torch.Tensor]:
    """One number throughout, whose mean PyTorch finds exactly; a sum of it rounds."""
    return [torch.full(shape, number) for number in (7.3, 100.7)]


def _statistics() -> dict[str, list[Case]]:
    x = torch.randn(2, 6, 4, 5)
    hard = torch.randn(4, 13)
    hard[0] = SPECIAL
    hard[1], hard[2, 3] = -INF, INF
    inputs = (x, hard, x.contiguous(memory_format=torch.channels_last))
    axes: list[dict[str, Any]] = [
        {"dim": 0},
        {"dim": (0, 1)},
        {"dim": -1, "keepdim": True},
        {"dim": (-1, -2), "keepdim": True},
        {"dim": []},
    ]
    w, b, m, v = (torch.randn(6) for _ in range(4))
    far = torch.randn(3, 6) + 9
    return {
        "sum.dim_IntList": [(lambda x, o=o: x.sum(**o), (one,)) for one in inputs for o in axes],
        "mean.dim": [(lambda x, o=o: x.mean(**o), (one,)) for one in inputs for o in axes]
        + [(lambda x: x.mean((2, 3)), (torch.full((1, 1, 64, 64), 3.0),))],
        "_softmax.default": [
            (lambda x, d=d: x.softmax(d), (one,)) for one in inputs for d in (0, 1, -1)
        ],
        "native_layer_norm.default": [
            (lambda x, w, b: F.layer_norm(x, (6,), w, b), (far, w, b)),
            (lambda x: F.layer_norm(x, (4, 5)), (x,)),
            (lambda x, w: F.layer_norm(x, (13,), w, eps=1e-2), (hard, torch.randn(13))),
            *((lambda x: F.layer_norm(x, (6,)), (flat,)) for flat in _flat(3, 6)),
        ],
        "native_group_norm.default": [
            (lambda x, w, b, g=g: F.group_norm(x, g, w, b), (x, w, b)) for g in (1, 2, 3, 6)
        ]
        + [(lambda x: F.group_norm(x, 3), (torch.randn(2, 6, 7),))]
        + [(lambda x: F.group_norm(x, 2), (flat,)) for flat in _flat(2, 6, 7)],
        "_native_batch_norm_legit_no_training.default": [
            (
                lambda x, w, b, m, v, e=e: aten._native_batch_norm_legit_no_training(
                    x, w, b, m, v, 0.1, e
                )[0],
                (one, w, b, m, v.abs()),
            )
            for one in (x, far, torch.randn(2, 6, 3), torch.randn(2, 6, 2, 2, 2))
            for e in (1e-5, 0.1)
        ]
        + [
            (
                lambda x, m, v: aten._native_batch_norm_legit_no_training(
                    x, None, None, m, v, 0.1, 0.0
                )[0],
                (x, m, torch.tensor([0.0, 1.0, INF, NAN, -1.0, 2.0])),
            )
        ],
    }


def grids() -> dict[str, list[Case]]:
    """Name of a row -> calls that it admits."""
    torch.manual_seed(0)
    parts = (
        _arithmetic(),
        _unary(),
        _bounded(),
        _largest(),
        _views(),
        _pieces(),
        _indexing(),
        _products(),
        _pools(),
        _statistics(),
    )
    return {name: cases for part in parts for name, cases in part.items()}
