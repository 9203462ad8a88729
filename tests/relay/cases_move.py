"""BatchNorm behind, and in front of, ops that it may cross."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphs import Case, Expr, Make
from tvm import relay

from bnfx import Code

Op = Callable[[Expr], Expr]
Graph = Callable[[Make], Expr]


def _behind(op: Op, channels: int = 8, positive: bool = False, axis: int = 1) -> Graph:
    """conv, then the op, then BatchNorm."""

    def build(make: Make) -> Expr:
        y = op(make.conv(make.input(2, 4, 6, 8), 8, 4, 1, 1, bias=True))
        return make.batch_norm(y, channels, positive, axis=axis)

    return build


def _in_front(op: Op, inside: int = 8, positive: bool = False) -> Graph:
    """BatchNorm, then the op, then a convolution without padding."""

    def build(make: Make) -> Expr:
        y = op(make.batch_norm(make.input(2, 8, 6, 8), 8, positive))
        return make.conv(y, 4, inside, 1, 1)

    return build


def _pool(kind: str, **options: Any) -> Op:
    return lambda x: getattr(relay.nn, kind)(x, pool_size=(2, 2), strides=(2, 2), **options)


def _concat(make: Make) -> Expr:
    x = make.input(2, 4, 6, 7)
    parts = [make.conv(x, 8, 4, 1, 1), make.conv(x, 2, 4, 1, 1, bias=True)]
    return make.batch_norm(relay.concatenate(parts, axis=1), 10)


def _concat_dead_arm(make: Make) -> Expr:
    x = make.input(2, 4, 6, 7)
    parts = [make.conv(x, 8, 4, 1, 1), relay.sigmoid(x)]
    return make.batch_norm(relay.concatenate(parts, axis=1), 12)


def _part_of_a_tuple(make: Make) -> Expr:
    x = make.input(2, 4, 6, 7)
    pair = relay.Tuple([make.conv(x, 8, 4, 1, 1), relay.sigmoid(x)])
    y = make.batch_norm(relay.nn.relu(relay.TupleGetItem(pair, 0)), 8)
    return relay.Tuple([make.conv(y, 4, 8, 1, 1), relay.TupleGetItem(pair, 1)])


def _concat_read_twice(make: Make) -> Expr:
    """The tuple goes elsewhere too."""
    x = make.input(2, 4, 6, 7)
    parts = relay.Tuple([make.conv(x, 8, 4, 1, 1), make.conv(x, 8, 4, 1, 1)])
    joined = make.batch_norm(relay.Call(relay.op.get("concatenate"), [parts], _axis(1)), 16)
    return relay.Tuple([joined, relay.sigmoid(relay.TupleGetItem(parts, 0))])


def _axis(axis: int) -> Any:
    import tvm

    return tvm.ir.make_node("relay.attrs.ConcatenateAttrs", axis=axis)


def _split(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 1, 1)
    one, other = relay.split(y, 2, axis=1)
    return relay.concatenate([make.batch_norm(one, 4), relay.nn.relu(other)], axis=1)


def _split_whole(make: Make) -> Expr:
    """Both parts are normalised, by statistics of their own."""
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 1, 1)
    one, other = relay.split(y, [3], axis=1)
    return relay.concatenate([make.batch_norm(one, 3), make.batch_norm(other, 5)], axis=1)


def _skip(make: Make) -> Expr:
    x = make.input(2, 4, 6, 7)
    y = relay.add(make.conv(x, 8, 4, 1, 1, bias=True), make.conv(x, 8, 4, 3, 3, padding=(1, 1)))
    return make.batch_norm(y, 8)


def _two_readers(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return relay.Tuple([make.batch_norm(y, 8), relay.sigmoid(y)])


def _shared_conv(make: Make) -> Expr:
    y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    return relay.Tuple([make.batch_norm(y, 8), make.batch_norm(y, 8)])


_RELU: Op = relay.nn.relu
_LEAKY: Op = lambda x: relay.nn.leaky_relu(x, 0.1)  # noqa: E731
_CLIP: Op = lambda x: relay.clip(x, 0.0, 6.0)  # noqa: E731
# TVM resizes in float32, whatever it is given.
_UPSAMPLING: Op = lambda x: relay.nn.upsampling(x, 2.0, 2.0)  # noqa: E731
_RESIZE: Op = lambda x: relay.image.resize2d(x, (9, 5), method="linear")  # noqa: E731
_SHIFTED = (Code.NONZERO_SHIFT, Code.NO_LINEAR_BEFORE)


def _blocks_last(kind: str) -> Graph:
    """Depth to space, or back, between a convolution and a BatchNorm, channels last."""

    def build(make: Make) -> Expr:
        options = {"data_layout": "NHWC", "kernel_layout": "HWIO", "channels": 8}
        x, weight = make.input(2, 6, 8, 4), make.constant(1, 1, 4, 8)
        if kind == "depth_to_space":
            y = relay.nn.conv2d(x, weight, kernel_size=(1, 1), **options)
            return make.batch_norm(relay.nn.depth_to_space(y, 2, layout="NHWC"), 2, axis=3)
        y = relay.nn.space_to_depth(make.batch_norm(x, 4, axis=3), 2, layout="NHWC")
        return relay.nn.conv2d(y, make.constant(1, 1, 16, 8), kernel_size=(1, 1), **options)

    return build


CASES = [
    Case("behind-repeat", _behind(lambda x: relay.repeat(x, 2, axis=2))),
    Case(
        "behind-repeat-channels",
        _behind(lambda x: relay.repeat(x, 2, axis=1), channels=16),
        folded=0,
        lowered=1,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case("in-front-of-repeat", _in_front(lambda x: relay.repeat(x, 3, axis=-1))),
    Case("behind-tile", _behind(lambda x: relay.tile(x, (1, 1, 2, 3)))),
    Case("in-front-of-tile", _in_front(lambda x: relay.tile(x, (2, 1, 1, 1)))),
    Case(
        "behind-space-to-depth",
        _behind(lambda x: relay.nn.space_to_depth(x, 2), channels=32),
        folded=0,
        lowered=1,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case(
        "in-front-of-space-to-depth",
        _in_front(lambda x: relay.nn.space_to_depth(x, 2), inside=32),
    ),
    Case("in-front-of-space-to-depth-last", _blocks_last("space_to_depth")),
    Case("behind-depth-to-space-last", _blocks_last("depth_to_space")),
    Case("behind-avg-pool", _behind(_pool("avg_pool2d"))),
    Case("behind-avg-pool-padded", _behind(_pool("avg_pool2d", padding=(1, 1)))),
    Case(
        "behind-avg-pool-counting",
        _behind(_pool("avg_pool2d", padding=(1, 1), count_include_pad=True)),
        folded=0,
        lowered=1,
        codes=(Code.NONZERO_SHIFT,),
        left=3,
    ),
    Case("behind-max-pool", _behind(_pool("max_pool2d"), positive=True)),
    Case(
        "behind-max-pool-signed",
        _behind(_pool("max_pool2d")),
        folded=0,
        lowered=1,
        codes=(Code.NEGATIVE_SCALE,),
        left=3,
    ),
    Case("behind-global-avg", _behind(relay.nn.global_avg_pool2d)),
    Case("behind-global-max", _behind(relay.nn.global_max_pool2d, positive=True)),
    Case("behind-adaptive", _behind(lambda x: relay.nn.adaptive_avg_pool2d(x, (3, 2)))),
    Case("behind-mean", _behind(lambda x: relay.mean(x, axis=[2, 3], keepdims=True))),
    Case("behind-mean-dropped", _behind(lambda x: relay.mean(x, axis=[2, 3]))),
    Case("behind-upsampling", _behind(_UPSAMPLING), dtype="float32"),
    Case("behind-resize", _behind(_RESIZE), dtype="float32"),
    Case("behind-reshape", _behind(lambda x: relay.reshape(x, (2, 8, -1)))),
    Case(
        "behind-flatten",
        _behind(relay.nn.batch_flatten, channels=384),
        folded=0,
        lowered=1,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case("behind-transpose", _behind(lambda x: relay.transpose(x, (0, 2, 3, 1)), axis=3)),
    Case(
        "behind-transpose-other",
        _behind(lambda x: relay.transpose(x, (0, 3, 2, 1)), axis=1),
        folded=0,
        lowered=1,
        codes=(Code.AXIS_MISMATCH,),
        left=3,
    ),
    Case("behind-layout", _behind(lambda x: relay.layout_transform(x, "NCHW", "NHWC"), axis=3)),
    Case("behind-expand", _behind(lambda x: relay.expand_dims(x, axis=2))),
    Case("behind-squeeze", _behind(lambda x: relay.squeeze(relay.expand_dims(x, 0), [0]))),
    Case("behind-dropout", _behind(lambda x: relay.nn.dropout(x, 0.5))),
    Case(
        "behind-mirror-pad",
        _behind(lambda x: relay.nn.mirror_pad(x, ((0, 0), (0, 0), (1, 1), (2, 1)))),
    ),
    Case(
        "behind-zero-pad",
        _behind(lambda x: relay.nn.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), pad_value=0.0)),
        folded=0,
        lowered=1,
        codes=(Code.NONZERO_SHIFT,),
        left=3,
    ),
    Case(
        "behind-edge-pad",
        _behind(lambda x: relay.nn.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), pad_mode="edge")),
    ),
    Case("behind-slice", _behind(lambda x: relay.strided_slice(x, [2], [7], axes=[1]), channels=5)),
    Case(
        "behind-depth-to-space",
        _behind(lambda x: relay.nn.depth_to_space(x, 2, mode="CRD"), channels=2),
    ),
    Case("behind-depth-to-space-dcr", _behind(lambda x: relay.nn.depth_to_space(x, 2), channels=2)),
    Case("behind-relu", _behind(_RELU), folded=0, lowered=1, left=3, codes=(Code.NONZERO_SHIFT,)),
    Case(
        "behind-clip",
        _behind(_CLIP, positive=True),
        folded=0,
        lowered=1,
        left=3,
        codes=(Code.NO_LINEAR_BEFORE,),
    ),
    Case("in-front-of-avg-pool", _in_front(_pool("avg_pool2d"))),
    Case("in-front-of-max-pool", _in_front(_pool("max_pool2d"), positive=True)),
    Case(
        "in-front-of-max-pool-signed",
        _in_front(_pool("max_pool2d")),
        folded=0,
        lowered=1,
        codes=(Code.NEGATIVE_SCALE, Code.NO_LINEAR_BEFORE),
        left=2,
    ),
    Case("in-front-of-upsampling", _in_front(_UPSAMPLING), dtype="float32"),
    Case(
        "in-front-of-leaky",
        _in_front(_LEAKY, positive=True),
        folded=0,
        lowered=1,
        left=1,
        codes=_SHIFTED,
    ),
    Case(
        "in-front-of-slice",
        _in_front(lambda x: relay.strided_slice(x, [1], [5], axes=[1]), inside=4),
    ),
    Case("concat", _concat, left=2),
    Case("part-of-a-tuple", _part_of_a_tuple),
    Case(
        "concat-dead-arm",
        _concat_dead_arm,
        folded=0,
        lowered=1,
        left=2,
        codes=(Code.NO_LINEAR_BEFORE,),
    ),
    Case(
        "concat-read-twice",
        _concat_read_twice,
        folded=0,
        lowered=1,
        left=2,
        codes=(Code.OTHER_READERS,),
    ),
    Case("split", _split),
    Case("split-whole", _split_whole, folded=2),
    Case("skip", _skip),
    Case("two-readers", _two_readers, folded=0, lowered=1, left=2, codes=(Code.OTHER_READERS,)),
    Case("shared-conv", _shared_conv, folded=0, lowered=2, left=4, codes=(Code.OTHER_READERS,)),
]
