"""BatchNorm behind, and in front of, ops that it may cross."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from relax.graphs import VERSION, Case, Expr, Make, pair

from bnfx import Code

Op = Callable[[Make, Expr], Expr]
Graph = Callable[[Make], Expr]


def _op(name: str, *args: Any, **options: Any) -> Op:
    return lambda make, x: make.call(name, x, *args, **options)


def _behind(op: Op, channels: int = 8, positive: bool = False, axis: int = 1) -> Graph:
    """conv, then the op, then BatchNorm."""

    def build(make: Make) -> Expr:
        y = op(make, make.conv(make.input(2, 4, 6, 8), 8, 4, 1, 1, bias=True))
        return make.batch_norm(y, channels, positive, axis=axis)

    return build


def _behind3d(op: Op, positive: bool = False) -> Graph:
    def build(make: Make) -> Expr:
        y = op(make, make.conv(make.input(1, 4, 4, 6, 4), 8, 4, 1, 1, 1))
        return make.batch_norm(y, 8, positive)

    return build


def _behind1d(op: Op, positive: bool = False) -> Graph:
    def build(make: Make) -> Expr:
        y = op(make, make.conv(make.input(2, 4, 8), 8, 4, 1))
        return make.batch_norm(y, 8, positive)

    return build


def _in_front(op: Op, inside: int = 8, positive: bool = False) -> Graph:
    """BatchNorm, then the op, then a convolution without padding."""

    def build(make: Make) -> Expr:
        y = op(make, make.batch_norm(make.input(2, 8, 6, 8), 8, positive))
        return make.conv(y, 4, inside, 1, 1)

    return build


def _pool(kind: str, **options: Any) -> Op:
    return _op(f"nn.{kind}", **{"pool_size": (2, 2), "strides": (2, 2), **options})


def _last(op: Op) -> Graph:
    """The same with channels last."""

    def build(make: Make) -> Expr:
        layout = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
        y = make.call("nn.conv2d", make.input(2, 6, 8, 4), make.constant(1, 1, 4, 8), **layout)
        return make.batch_norm(op(make, y), 8, axis=3)

    return build


def _concat(make: Make) -> Expr:
    x = make.input(2, 4, 6, 7)
    parts = [make.conv(x, 8, 4, 1, 1), make.conv(x, 2, 4, 1, 1, bias=True)]
    return make.batch_norm(make.call("concat", parts, axis=1), 10)


def _concat_dead_arm(make: Make) -> Expr:
    x = make.input(2, 4, 6, 7)
    parts = [make.conv(x, 8, 4, 1, 1), make.call("sigmoid", x)]
    return make.batch_norm(make.call("concat", parts, axis=1), 12)


def _concat_read_twice(make: Make) -> Expr:
    """The tuple goes elsewhere too."""
    x = make.input(2, 4, 6, 7)
    parts = make.emit(pair(make.conv(x, 8, 4, 1, 1), make.conv(x, 8, 4, 1, 1)))
    joined = make.batch_norm(make.call("concat", parts, axis=1), 16)
    return pair(joined, make.call("sigmoid", make.emit(parts[0])))


def _split(make: Make) -> Expr:
    y = make.call("split", make.conv(make.input(2, 4, 6, 7), 8, 4, 1, 1), 2, axis=1)
    one, other = make.emit(y[0]), make.emit(y[1])
    parts = [make.batch_norm(one, 4), make.call("nn.relu", other)]
    return make.call("concat", parts, axis=1)


def _split_whole(make: Make) -> Expr:
    """Both parts are normalised, by statistics of their own."""
    y = make.call("split", make.conv(make.input(2, 4, 6, 7), 8, 4, 1, 1), [3], axis=1)
    one, other = make.emit(y[0]), make.emit(y[1])
    return make.call("concat", [make.batch_norm(one, 3), make.batch_norm(other, 5)], axis=1)


def _split_uneven(make: Make) -> Expr:
    """Three parts of eight channels: 3, 3 and 2."""
    y = make.call("split", make.conv(make.input(2, 4, 6, 7), 8, 4, 1, 1), 3, axis=1)
    parts = [make.emit(y[index]) for index in range(3)]
    normed = [make.batch_norm(x, count) for x, count in zip(parts, (3, 3, 2), strict=True)]
    return make.call("concat", normed, axis=1)


def _split_read_whole(make: Make) -> Expr:
    """The tuple is returned as well."""
    y = make.call("split", make.conv(make.input(2, 4, 6, 7), 8, 4, 1, 1), 2, axis=1)
    return pair(make.batch_norm(make.emit(y[0]), 4), y)


def _skip(make: Make) -> Expr:
    x = make.input(2, 4, 6, 7)
    arms = (make.conv(x, 8, 4, 1, 1, bias=True), make.conv(x, 8, 4, 3, 3, padding=(1, 1)))
    return make.batch_norm(make.call("add", *arms), 8)


def _two_readers(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return pair(make.batch_norm(y, 8), make.call("sigmoid", y))


def _shared_conv(make: Make) -> Expr:
    """Upstream's pass writes the convolution twice here."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return pair(make.batch_norm(y, 8), make.batch_norm(y, 8))


def _returned_conv(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return pair(y, make.batch_norm(y, 8))


def _dropout(make: Make, x: Expr) -> Expr:
    return make.emit(make.call("nn.dropout", x, 0.5)[0])


def _prelu(make: Make, x: Expr) -> Expr:
    return make.call("nn.prelu", x, make.constant(8), axis=1)


def _layout(make: Make, x: Expr) -> Expr:
    return make.call("layout_transform", x, lambda n, c, h, w: (n, h, w, c))


def _blocked(make: Make, x: Expr) -> Expr:
    return make.call("layout_transform", x, lambda n, c, h, w: (n, c // 4, h, w, c % 4))


def _squeezed(make: Make, x: Expr) -> Expr:
    return make.call("squeeze", make.call("expand_dims", x, 0), [0])


_LOWERED: dict[str, Any] = {"folded": 0, "lowered": 1}
_F32: dict[str, Any] = {"dtype": "float32"}  # in which TVM computes the weights of a resize
_PADS = (0, 0, 0, 0, 1, 1, 2, 1)
_SHIFTED = (Code.NONZERO_SHIFT, Code.NO_LINEAR_BEFORE)

CASES = [
    Case("behind-avg-pool", _behind(_pool("avg_pool2d"))),
    Case("behind-avg-pool-padded", _behind(_pool("avg_pool2d", padding=(1, 1)))),
    Case(
        "behind-avg-pool-counting",
        _behind(_pool("avg_pool2d", padding=(1, 1), count_include_pad=True)),
        **_LOWERED,
        codes=(Code.NONZERO_SHIFT,),
        left=3,
    ),
    Case("behind-avg-pool-ceil", _behind(_pool("avg_pool2d", pool_size=(3, 3), ceil_mode=True))),
    Case("behind-avg-pool-last", _last(_pool("avg_pool2d", layout="NHWC"))),
    Case("behind-avg-pool1d", _behind1d(_op("nn.avg_pool1d", pool_size=2, strides=2))),
    Case("behind-avg-pool3d", _behind3d(_op("nn.avg_pool3d", pool_size=(2, 2, 2)))),
    Case("behind-max-pool", _behind(_pool("max_pool2d"), positive=True)),
    Case("behind-max-pool1d", _behind1d(_op("nn.max_pool1d", pool_size=2), positive=True)),
    Case("behind-max-pool3d", _behind3d(_op("nn.max_pool3d"), positive=True)),
    Case(
        "behind-max-pool-signed",
        _behind(_pool("max_pool2d")),
        **_LOWERED,
        codes=(Code.NEGATIVE_SCALE,),
        left=3,
    ),
    Case("behind-adaptive", _behind(_op("nn.adaptive_avg_pool2d", (3, 2)))),
    Case("behind-adaptive1d", _behind1d(_op("nn.adaptive_avg_pool1d", 3))),
    Case("behind-mean", _behind(_op("mean", [2, 3], keepdims=True))),
    Case("behind-mean-dropped", _behind(_op("mean", [-1, -2]))),
    Case("behind-mean-of-channels", _behind(_op("mean", [1], keepdims=True), channels=1)),
    Case(
        "behind-mean-of-rows",
        _behind(_op("mean", [2], keepdims=True), channels=8, axis=3),
        **_LOWERED,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case("behind-max", _behind(_op("max", [2, 3]), positive=True)),
    Case("behind-resize", _behind(_op("image.resize2d", (9, 5), method="linear")), **_F32),
    Case("behind-resize-cubic", _behind(_op("image.resize2d", (9, 5), method="cubic")), **_F32),
    Case(
        "behind-resize-excluding",
        _behind(_op("image.resize2d", (9, 5), method="cubic", cubic_exclude=1)),
        **_F32,
        **_LOWERED,
        codes=(Code.NO_LINEAR_BEFORE,),
        left=3,
    ),
    Case(
        "behind-resize-nearest",
        _behind(_op("image.resize2d", (12, 16), method="nearest_neighbor")),
        **_F32,
    ),
    Case("behind-resize-last", _last(_op("image.resize2d", (9, 5), layout="NHWC")), **_F32),
    Case("behind-resize3d", _behind3d(_op("image.resize3d", (6, 3, 5))), **_F32),
    Case("behind-reshape", _behind(_op("reshape", (2, 8, 48)))),
    Case(
        "behind-flatten",
        _behind(_op("nn.batch_flatten"), channels=384),
        **_LOWERED,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case("behind-permute", _behind(_op("permute_dims", (0, 2, 3, 1)), axis=3)),
    Case(
        "behind-permute-other",
        _behind(_op("permute_dims", (0, 3, 2, 1)), axis=1),
        **_LOWERED,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case("behind-permute-all", _behind(_op("permute_dims"), axis=2)),
    Case("behind-layout", _behind(_layout, axis=3)),
    Case(
        "behind-blocked",
        _behind(_blocked, channels=2),
        **_LOWERED,
        codes=(Code.NO_LINEAR_BEFORE,),
        left=3,
    ),
    Case("behind-expand", _behind(_op("expand_dims", 2))),
    Case("behind-squeeze", _behind(_squeezed)),
    Case("behind-dropout", _behind(_dropout), runs=VERSION >= (0, 26)),
    Case("behind-reflect-pad", _behind(_op("nn.pad", _PADS, "reflect"))),
    Case("behind-replicate-pad", _behind(_op("nn.pad", _PADS, "replicate"))),
    Case("behind-circular-pad", _behind(_op("nn.pad", _PADS, "circular"))),
    Case(
        "behind-zero-pad",
        _behind(_op("nn.pad", _PADS)),
        **_LOWERED,
        codes=(Code.NONZERO_SHIFT,),
        left=3,
    ),
    Case(
        "behind-other-pad",
        _behind(_op("nn.pad", _PADS, "constant", 1.5)),
        **_LOWERED,
        codes=(Code.NONZERO_SHIFT, Code.PADDING_VALUE),
        left=3,
    ),
    Case("behind-slice", _behind(_op("strided_slice", [1], [2], [7]), channels=5)),
    Case("behind-slice-negative", _behind(_op("strided_slice", [-3], [-6], [-1]), channels=5)),
    Case(
        "behind-slice-by-two",
        _behind(_op("strided_slice", [1], [0], [8], [2]), channels=4),
        **_LOWERED,
        codes=(Code.NO_LINEAR_BEFORE,),
        left=3,
    ),
    Case("behind-repeat", _behind(_op("repeat", 2, 2))),
    Case(
        "behind-repeat-channels",
        _behind(_op("repeat", 2, 1), channels=16),
        **_LOWERED,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case("behind-tile", _behind(_op("tile", (1, 1, 2, 3)))),
    Case("in-front-of-repeat", _in_front(_op("repeat", 3, -1))),
    Case("in-front-of-tile", _in_front(_op("tile", (2, 1, 1, 1)))),
    Case("in-front-of-replicate-pad", _in_front(_op("nn.pad", _PADS, "replicate"))),
    Case("behind-pixel-shuffle", _behind(_op("nn.pixel_shuffle", 2), channels=2), runs=False),
    Case("behind-relu", _behind(_op("nn.relu")), **_LOWERED, codes=(Code.NONZERO_SHIFT,), left=3),
    Case(
        "behind-clip",
        _behind(_op("clip", 0, 6), positive=True),
        **_LOWERED,
        codes=(Code.NO_LINEAR_BEFORE,),
        left=3,
    ),
    Case("in-front-of-avg-pool", _in_front(_pool("avg_pool2d"))),
    Case("in-front-of-max-pool", _in_front(_pool("max_pool2d"), positive=True)),
    Case(
        "in-front-of-max-pool-signed",
        _in_front(_pool("max_pool2d")),
        **_LOWERED,
        codes=(Code.NEGATIVE_SCALE, Code.NO_LINEAR_BEFORE),
        left=2,
    ),
    Case("in-front-of-resize", _in_front(_op("image.resize2d", (12, 16))), **_F32),
    Case(
        "in-front-of-leaky",
        _in_front(_op("nn.leakyrelu", 0.1), positive=True),
        **_LOWERED,
        codes=_SHIFTED,
        left=2,
    ),
    Case(
        "in-front-of-prelu",
        _in_front(_prelu, positive=True),
        **_LOWERED,
        codes=_SHIFTED,
        left=2,
    ),
    Case("in-front-of-slice", _in_front(_op("strided_slice", [1], [1], [5]), inside=4)),
    Case("concat", _concat, left=2),
    Case("concat-dead-arm", _concat_dead_arm, **_LOWERED, codes=(Code.NO_LINEAR_BEFORE,), left=2),
    Case("concat-read-twice", _concat_read_twice, **_LOWERED, codes=(Code.OTHER_READERS,), left=2),
    Case("split", _split),
    Case("split-whole", _split_whole, folded=2),
    Case("split-uneven", _split_uneven, folded=3),
    Case("split-read-whole", _split_read_whole, **_LOWERED, codes=(Code.OTHER_READERS,), left=2),
    Case("skip", _skip),
    Case("two-readers", _two_readers, **_LOWERED, codes=(Code.OTHER_READERS,), left=2),
    Case("shared-conv", _shared_conv, folded=0, lowered=2, codes=(Code.OTHER_READERS,), left=4),
    Case("returned-conv", _returned_conv, **_LOWERED, codes=(Code.OTHER_READERS,), left=2),
]
