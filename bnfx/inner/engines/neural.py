"""Rows: convolutions, products, pools, norms and resizes."""

from __future__ import annotations

from typing import Any

from torch import fx

from bnfx.inner.engines.rows import Arguments, Row, Writer, aten, need, shape, spread


def convolution(to: Writer, node: fx.Node, a: Arguments) -> Any:
    source, weight = a["input"], a["weight"]
    rank = len(shape(source)) - 2
    need(rank in (1, 2, 3), node, "an input without a batch")
    strides, pads = spread(a["stride"], rank), spread(a["padding"], rank)
    dilations, groups = spread(a["dilation"], rank), a["groups"]
    need(min(pads) >= 0, node, "negative padding")
    x, w = to.read(source), to.read(weight)
    if groups > 1:
        size = shape(weight)
        split = [groups, size[0] // groups, *size[1:]]
        w = to.ops.reshape(w, to.integers(split), special_zero=False)
    if a["transposed"]:
        extra = spread(a["output_padding"], rank)
        need(
            all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)),
            node,
            "such padding",
        )
        write = to.ops.group_convolution_backprop_data
        write = write if groups > 1 else to.ops.convolution_backprop_data
        y = write(
            x, w, strides, pads_begin=pads, pads_end=pads, dilations=dilations, output_padding=extra
        )
    else:
        write = to.ops.group_convolution if groups > 1 else to.ops.convolution
        y = write(x, w, strides, pads, pads, dilations)
    if a["bias"] is None:
        return y
    at = [1, shape(a["bias"])[0], *[1] * rank]
    return to.ops.add(y, to.ops.reshape(to.read(a["bias"]), to.integers(at), special_zero=False))


def addmm(to: Writer, node: fx.Node, a: Arguments) -> Any:
    need(a["beta"] == 1 and a["alpha"] == 1, node, "factors")
    product = to.ops.matmul(to.read(a["mat1"]), to.read(a["mat2"]), False, False)
    return to.ops.add(product, to.read(a["self"]))


def product(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return to.ops.matmul(to.read(a["self"]), to.read(a["mat2"]), False, False)


def max_pool(to: Writer, node: fx.Node, a: Arguments) -> Any:
    rank, kernel = _window(node, a)
    strides = spread(a["stride"] or kernel, rank)
    pads, dilations = spread(a["padding"], rank), spread(a["dilation"], rank)
    for user in node.users:
        need(user.args[1:] == (0,), node, "indices that are read")
    # Where sizes are rounded up, the last window still begins in the input or in front of it.
    ends = (
        [
            max(pad, int((out - 1) * stride + (size - 1) * dilation + 1 - given - pad))
            for pad, out, stride, size, dilation, given in zip(
                pads,
                _first_shape(node)[2:],
                strides,
                kernel,
                dilations,
                shape(a["self"])[2:],
                strict=True,
            )
        ]
        if a["ceil_mode"]
        else pads
    )
    y = to.ops.max_pool(
        to.read(a["self"]), strides, dilations, pads, ends, kernel, "floor", "explicit"
    )
    return [y.output(0)]


def _first_shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"][0].shape)


def avg_pool(to: Writer, node: fx.Node, a: Arguments) -> Any:
    rank, kernel = _window(node, a)
    strides, pads = spread(a["stride"] or kernel, rank), spread(a["padding"], rank)
    need(a["divisor_override"] is None, node, "a divisor of its own")
    # With both, PyTorch counts the padding that was asked for, not what rounding up adds.
    need(not a["ceil_mode"], node, "ceil_mode")
    return to.ops.avg_pool(
        to.read(a["self"]),
        strides,
        pads,
        pads,
        kernel,
        not a["count_include_pad"],
        "floor",
        "explicit",
    )


def adaptive_avg_pool(to: Writer, node: fx.Node, a: Arguments) -> Any:
    wanted, given = a["output_size"], shape(a["self"])
    rank = len(wanted)
    need(len(given) == rank + 2, node, "an input without a batch")
    if all(size == 1 for size in wanted):
        axes = list(range(2, rank + 2))
        return to.ops.reduce_mean(to.read(a["self"]), to.integers(axes), True)
    pairs = list(zip(given[2:], wanted, strict=True))
    need(all(size % out == 0 for size, out in pairs), node, "windows of several sizes")
    kernel, none = [int(size // out) for size, out in pairs], [0] * rank
    return to.ops.avg_pool(
        to.read(a["self"]), kernel, none, none, kernel, False, "floor", "explicit"
    )


def batch_norm(to: Writer, node: fx.Node, a: Arguments) -> Any:
    need(not a.get("training", False), node, "statistics of the batch")
    channels = shape(a["input"])[1]
    parts = [a["weight"], a["bias"], a["running_mean"], a["running_var"]]
    need(parts[2] is not None and parts[3] is not None, node, "statistics of the batch")
    for user in node.users:
        need(user.args[1:] == (0,), node, "statistics that are read")
    ops, at = to.ops, to.integers([1, channels, *[1] * (len(shape(a["input"])) - 2)])
    weight, bias, mean, var = (
        None if part is None else ops.reshape(to.read(part), at, special_zero=False)
        for part in parts
    )
    deviation = ops.sqrt(ops.add(var, to.number(a["eps"])))
    y = ops.divide(ops.subtract(to.read(a["input"]), mean), deviation)
    y = y if weight is None else ops.multiply(y, weight)
    return [y if bias is None else ops.add(y, bias)]


def nearest(to: Writer, node: fx.Node, a: Arguments) -> Any:
    return _resize(to, node, a, "nearest", "asymmetric")


def bilinear(to: Writer, node: fx.Node, a: Arguments) -> Any:
    mode = "align_corners" if a["align_corners"] else "half_pixel"
    return _resize(to, node, a, "linear_onnx", mode)


def _resize(to: Writer, node: fx.Node, a: Arguments, mode: str, coordinates: str) -> Any:
    before, after = shape(a["input" if "input" in a else "self"])[2:], shape(node)[2:]
    scales = a.get("scale_factors") or [a.get("scales_h"), a.get("scales_w")]
    for scale, one, other in zip(scales, before, after, strict=True):
        # PyTorch maps coordinates by the factor that it was given, OpenVINO by the sizes.
        need(scale is None or one * scale == other, node, "factors that do not divide")
    need(
        mode != "nearest" or all(o % b == 0 for b, o in zip(before, after, strict=True)),
        node,
        "such sizes",
    )
    return to.ops.interpolate(
        to.read(a["input" if "input" in a else "self"]),
        to.integers(after),
        mode,
        "sizes",
        [0],
        [0],
        coordinates,
        "floor",
        axes=to.integers([2, 3]),
    )


def _window(node: fx.Node, a: Arguments) -> tuple[int, list[int]]:
    rank = len(shape(a["self"])) - 2
    name = str(node.target)
    need(f"pool{rank}d" in name, node, "an input without a batch")
    return rank, spread(a["kernel_size"], rank)


ROWS: dict[Any, Row] = {
    aten.convolution.default: convolution,
    aten.addmm.default: addmm,
    aten.mm.default: product,
    aten.bmm.default: product,
    aten.max_pool2d_with_indices.default: max_pool,
    aten.max_pool3d_with_indices.default: max_pool,
    aten.avg_pool2d.default: avg_pool,
    aten.avg_pool3d.default: avg_pool,
    aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten.native_batch_norm.default: batch_norm,
    aten.upsample_nearest2d.default: nearest,
    aten.upsample_bilinear2d.default: bilinear,
}
