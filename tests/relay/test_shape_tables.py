"""Sizes that are not fixed: an axis that an op hands on keeps its name, others get new ones."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from graphs import Expr, Make
from lifted import lifted
from tvm import relay

from bnfx.passes.relay.shapes import dtype_of, rank_of, sizes_of

ANY = relay.Any()
X = (ANY, 4, ANY, 6)
SAME = ("?0", 4, "?1", 6)
POOL = {"pool_size": (1, 1), "padding": (0, 0)}


def _conv(x: Expr, weight: tuple[int, ...], **options: Any) -> Expr:
    return relay.nn.conv2d(x, Make(0).constant(*weight), kernel_size=(1, 1), channels=8, **options)


def _norm(x: Expr, part: int = 0) -> Expr:
    return Make(0).batch_norm_call(x, 4)[part]


def _const(*shape: int) -> Expr:
    return Make(0).constant(*shape)


def _other(*shape: Any) -> Expr:
    return Make(0).input(*shape, name="y")


# Of a call that reads ``x``: the shape of its result, where its own names are written as ``?``.
ROWS: list[tuple[str, Any, tuple[Any, ...]]] = [
    ("relu", relay.nn.relu, SAME),
    ("norm", _norm, SAME),
    ("dropout", lambda x: relay.nn.dropout(x), SAME),
    ("unknown", relay.sin, ("?", 4, "?", 6)),
    ("sum", lambda x: x + x, SAME),
    ("channels", lambda x: x + _const(4, 1, 1), SAME),
    ("whole", lambda x: x + _const(1, 4, 1, 6), SAME),
    ("more-axes", lambda x: x + _const(1, 1, 1, 1, 1), (1, "?", 4, "?", 6)),
    ("one-axis-more", lambda x: relay.transpose(x, (1, 0, 2, 3)) + _const(1, 1, 1, 1, 1),
     (1, 4, "?", "?", 6)),
    ("fewer-axes", lambda x: _const(4, 1, 1) + x, ("?", 4, "?", 6)),
    ("long-constant", lambda x: relay.transpose(x, (1, 0, 2, 3)) + _const(6), (4, "?0", "?1", 6)),
    ("other", lambda x: x + _other(*X), ("?", 4, "?", 6)),
    ("other-first", lambda x: x + _other(1, 4, ANY, 6), ("?", 4, "?", 6)),
    ("three", lambda x: x + _const(3, 4, 1, 1), (3, 4, "?", 6)),
    ("concat", lambda x: relay.concatenate([x, relay.nn.relu(x)], 1), ("?0", 8, "?1", 6)),
    ("concat-last", lambda x: relay.concatenate([x, x], -2), ("?0", 4, "?", 6)),
    ("concat-others", lambda x: relay.concatenate([x, _other(*X)], 1), ("?", 8, "?", 6)),
    ("concat-of-parts",
     lambda x: relay.concatenate(relay.split(x, 2, 3).astuple(), 2), ("?", 4, "?", 3)),
    ("stack", lambda x: relay.stack([x, x], 0), (2, "?", 4, "?", 6)),
    ("conv", lambda x: _conv(x, (8, 4, 1, 1)), ("?0", 8, "?", 6)),
    ("conv-last", lambda x: _conv(x, (1, 1, 6, 8), data_layout="NHWC", kernel_layout="HWIO"),
     ("?0", 4, "?", 8)),
    ("conv-of-rows", lambda x: _conv(x, (8, 4, 1, 1), data_layout="HCWN"), ("?", 8, "?", 6)),
    ("conv-to-rows", lambda x: _conv(x, (8, 4, 1, 1), out_layout="HNWC"), ("?", "?", 6, 8)),
    ("pool", lambda x: relay.nn.max_pool2d(x, **POOL), ("?0", 4, "?", 6)),
    ("pool-of-rows", lambda x: relay.nn.avg_pool2d(x, **POOL, layout="HCWN"), ("?", 4, "?", 6)),
    ("global", relay.nn.global_avg_pool2d, ("?0", 4, 1, 1)),
    ("flat", relay.nn.batch_flatten, ("?0", "?")),
    ("resize", lambda x: relay.image.resize2d(x, (3, 3)), ("?0", 4, 3, 3)),
    ("pad", lambda x: relay.nn.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0))), ("?0", 5, "?", 6)),
    ("mirror", lambda x: relay.nn.mirror_pad(x, ((0, 0), (1, 0), (0, 0), (0, 0))),
     ("?0", 5, "?1", 6)),
    ("dense", lambda x: relay.nn.dense(x, _const(8, 6)), ("?0", 4, "?1", 8)),
    ("slice", lambda x: relay.strided_slice(x, [1], [3], axes=[1]), ("?0", 2, "?1", 6)),
    ("slice-of-all", lambda x: relay.strided_slice(x, [0, 1], [9, 3]), ("?", 2, "?", 6)),
    ("split", lambda x: relay.split(x, 2, axis=1)[1], ("?0", 2, "?1", 6)),
    ("split-rows", lambda x: relay.split(x, 2, axis=-2)[1], ("?0", 4, "?", 6)),
    ("repeat", lambda x: relay.repeat(x, 2, axis=2), ("?0", 4, "?", 6)),
    ("transpose", lambda x: relay.transpose(x, (-2, 1, 0, 3)), ("?1", 4, "?0", 6)),
    ("reverse", relay.transpose, (6, "?1", 4, "?0")),
    ("layout", lambda x: relay.layout_transform(x, "NCHW", "NHWC"), ("?0", "?1", 6, 4)),
    ("blocks", lambda x: relay.layout_transform(x, "NCHW", "NCHW2c"), ("?", 2, "?", 6, 2)),
    ("reshape", lambda x: relay.reshape(x, (-1, 24)), ("?", 24)),
]  # fmt: skip


def _shape(build: Any, *shape: Any) -> list[Any]:
    """Of what is built; names that are not those of ``x`` are written as ``?``."""
    flow = lifted(lambda make: build(make.input(*shape)))
    (x,) = (value for value in flow.flow.values if value.name == "x")
    found = flow.nodes[flow.flow.result].shape
    assert found is not None
    own = flow.nodes[x].shape or ()
    fresh = [size for size in found if isinstance(size, str) and size not in own]
    assert len(set(fresh)) == len(fresh)
    return ["?" if size in fresh else size for size in found]


@pytest.mark.parametrize(("build", "expected"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_which_axes_are_handed_on(build: Any, expected: tuple[Any, ...]) -> None:
    assert _shape(build, *X) == list(expected)


MATRICES = (ANY, ANY, 6)


@pytest.mark.parametrize(
    ("build", "shape", "expected"),
    [
        (lambda x: relay.nn.batch_matmul(x, _const(1, 8, 6)), MATRICES, ("?0", "?", 8)),
        (lambda x: relay.nn.batch_matmul(x, x), MATRICES, ("?0", "?", "?")),
        (lambda x: relay.nn.batch_matmul(x, _other(ANY, 8, 6)), MATRICES, ("?", "?", 8)),
        (lambda x: relay.reshape(x, (-1, 24)), (ANY, 4, 6), ("?0", 24)),
        (lambda x: relay.reshape(x, (-1, 3, 8)), (ANY, 4, 6), ("?0", 3, 8)),
        (lambda x: relay.reshape(x, (-1, 12)), (ANY, 4, 6), ("?", 12)),
        (lambda x: relay.reshape(x, (-1, 0, 2)), (ANY, 0, 4), ("?", 0, 2)),
        (lambda x: relay.reshape(x, (2, -1, 24)), (ANY, 4, 6), (2, "?", 24)),
        (lambda x: relay.reshape(x, (-1, 6)), (3, ANY, 6), ("?", 6)),
        (lambda x: relay.reshape(x, (-1, 6)), (ANY, ANY, 6), ("?", 6)),
        (lambda x: relay.reshape(x, (-1, 6)), (ANY, ANY, ANY), ("?", 6)),
        (lambda x: relay.reshape(x, (0, -1, 24)), (ANY, 4, 6), ("?0", 1, 24)),
    ],
)
def test_products_and_reshapes(build: Any, shape: Any, expected: Any) -> None:
    assert _shape(build, *shape) == list(expected)


def test_parts_of_a_norm_are_no_axes_of_its_input() -> None:
    x = relay.var("x", shape=(ANY, ANY), dtype="float32")
    free = [relay.var(name, shape=(ANY,), dtype="float32") for name in "gbmv"]
    assert _shape(lambda _: relay.nn.batch_norm(x, *free)[1], 1) == ["?"]


def test_sizes_that_have_names() -> None:
    n = tvm.tir.Var("n", "int32")
    flow = lifted(lambda make: relay.sin(make.input(n, 4)))
    assert [node.shape for node in flow.nodes.values()] == [("n", 4), ("n", 4)]


@pytest.mark.parametrize(
    ("kind", "sizes", "rank", "dtype"),
    [
        (relay.TensorType((2, 3), "float32"), (2, 3), 2, "float32"),
        (relay.TensorType((2, ANY), "float16"), (2, None), 2, "float16"),
        (relay.TensorType((), "int8"), (), 0, "int8"),
        (relay.TupleType([relay.TensorType((2,))]), None, None, None),
        (None, None, None, None),
    ],
)
def test_types(kind: Any, sizes: Any, rank: Any, dtype: Any) -> None:
    assert (sizes_of(kind), rank_of(kind), dtype_of(kind)) == (sizes, rank, dtype)
