"""The calls that affine maps may cross, in one normal form, whatever way they were written.

As in :mod:`bnfx.passes.fx.calls.call`, a call is known only if every one of its arguments is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.passes.fx.calls import aten as aten_calls
from bnfx.passes.fx.calls.call import Call, Signature, bind_arguments
from bnfx.passes.fx.calls.modules import has_hooks
from bnfx.passes.fx.calls.signatures import (
    ADAPTIVE_AVG,
    ADAPTIVE_MAX,
    AMAX,
    AVG_POOL,
    AVG_POOL_1D,
    CAT,
    DIMS,
    DROPOUT,
    FACTOR,
    INTERPOLATE,
    LAYOUT,
    LEAKY,
    MAX_POOL,
    MEAN,
    NARROW,
    PAD,
    PAIR,
    PLAIN,
    SELECT,
    WEIGHT,
    Table,
    signature,
)
from bnfx.passes.refusals import Refusal

# target -> (kind, spatial dimensions, signature)
FUNCTIONS: Table = {
    F.dropout: ("dropout", 0, DROPOUT),
    F.dropout1d: ("dropout", 0, DROPOUT),
    F.dropout2d: ("dropout", 0, DROPOUT),
    F.dropout3d: ("dropout", 0, DROPOUT),
    F.alpha_dropout: ("dropout", 0, signature("", p=0.5, training=False, inplace=False)),
    torch.clone: ("identity", 0, LAYOUT),
    torch.permute: ("permute", 0, DIMS),
    torch.transpose: ("transpose", 0, PAIR),
    torch.swapaxes: ("transpose", 0, PAIR),
    torch.swapdims: ("transpose", 0, PAIR),
    F.max_pool1d: ("max_pool", 1, MAX_POOL),
    F.max_pool2d: ("max_pool", 2, MAX_POOL),
    F.max_pool3d: ("max_pool", 3, MAX_POOL),
    torch.max_pool1d: ("max_pool", 1, MAX_POOL),
    torch.max_pool2d: ("max_pool", 2, MAX_POOL),
    torch.max_pool3d: ("max_pool", 3, MAX_POOL),
    torch.avg_pool1d: ("avg_pool", 1, AVG_POOL_1D),
    torch._C._nn.avg_pool2d: ("avg_pool", 2, AVG_POOL),
    torch._C._nn.avg_pool3d: ("avg_pool", 3, AVG_POOL),
    torch.adaptive_avg_pool1d: ("adaptive_avg", 1, ADAPTIVE_AVG),
    F.adaptive_avg_pool2d: ("adaptive_avg", 2, ADAPTIVE_AVG),
    F.adaptive_avg_pool3d: ("adaptive_avg", 3, ADAPTIVE_AVG),
    F.adaptive_max_pool1d: ("adaptive_max", 1, ADAPTIVE_MAX),
    F.adaptive_max_pool2d: ("adaptive_max", 2, ADAPTIVE_MAX),
    F.adaptive_max_pool3d: ("adaptive_max", 3, ADAPTIVE_MAX),
    torch.mean: ("mean", 0, MEAN),
    torch.amax: ("amax", 0, AMAX),
    F.interpolate: ("interpolate", 0, INTERPOLATE),
    F.pad: ("pad", 0, PAD),
    torch._C._nn.pad: ("pad", 0, PAD),
    torch.pixel_shuffle: ("pixel_shuffle", 0, FACTOR),
    torch.pixel_unshuffle: ("pixel_unshuffle", 0, FACTOR),
    torch.channel_shuffle: ("channel_shuffle", 0, FACTOR),
    torch.cat: ("cat", 0, CAT),
    torch.concat: ("cat", 0, CAT),
    torch.narrow: ("narrow", 0, NARROW),
    torch.select: ("select", 0, SELECT),
    operator.getitem: ("getitem", 0, signature("index")),
    F.relu: ("relu", 0, signature("", inplace=False)),
    torch.relu: ("relu", 0, PLAIN),
    F.leaky_relu: ("relu", 0, LEAKY),
    F.prelu: ("relu", 0, WEIGHT),
    torch.prelu: ("relu", 0, WEIGHT),
    **aten_calls.STRUCTURE,
}
# Only shapes tell what they do: same elements, in row-major order.
RESHAPES = frozenset(
    {torch.reshape, torch.flatten, torch.unsqueeze, torch.squeeze, torch.unflatten}
    | aten_calls.RESHAPES
)
RESHAPE_METHODS = frozenset(
    {"view", "reshape", "flatten", "unsqueeze", "squeeze", "unflatten", "view_as", "reshape_as"}
)
METHODS: Mapping[str, tuple[str, int, Signature]] = {
    "contiguous": ("identity", 0, LAYOUT),
    "clone": ("identity", 0, LAYOUT),
    "detach": ("identity", 0, PLAIN),
    "transpose": ("transpose", 0, PAIR),
    "swapaxes": ("transpose", 0, PAIR),
    "swapdims": ("transpose", 0, PAIR),
    "mean": ("mean", 0, MEAN),
    "amax": ("amax", 0, AMAX),
    "narrow": ("narrow", 0, NARROW),
    "select": ("select", 0, SELECT),
    "relu": ("relu", 0, PLAIN),
    "relu_": ("relu", 0, PLAIN),
}
# exact class -> the function that it calls, and its attributes that are arguments
MODULES: Mapping[type[nn.Module], tuple[Callable[..., Any] | None, tuple[str, ...]]] = {
    nn.Identity: (None, ()),
    nn.Flatten: (None, ()),
    nn.Unflatten: (None, ()),
    nn.Dropout: (F.dropout, ("p", "training", "inplace")),
    nn.Dropout1d: (F.dropout1d, ("p", "training", "inplace")),
    nn.Dropout2d: (F.dropout2d, ("p", "training", "inplace")),
    nn.Dropout3d: (F.dropout3d, ("p", "training", "inplace")),
    nn.ReLU: (F.relu, ("inplace",)),
    nn.LeakyReLU: (F.leaky_relu, ("negative_slope", "inplace")),
    nn.AvgPool1d: (
        torch.avg_pool1d,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    ),
    nn.PixelShuffle: (torch.pixel_shuffle, ("upscale_factor",)),
    nn.PixelUnshuffle: (torch.pixel_unshuffle, ("downscale_factor",)),
    nn.ChannelShuffle: (torch.channel_shuffle, ("groups",)),
    nn.Upsample: (F.interpolate, ("size", "scale_factor", "mode", "align_corners")),
}
_POOLS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGES = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)
MODULES |= {  # type: ignore[operator]
    nn.MaxPool1d: (F.max_pool1d, _POOLS),
    nn.MaxPool2d: (F.max_pool2d, _POOLS),
    nn.MaxPool3d: (F.max_pool3d, _POOLS),
    nn.AvgPool2d: (torch._C._nn.avg_pool2d, _AVERAGES),
    nn.AvgPool3d: (torch._C._nn.avg_pool3d, _AVERAGES),
    nn.AdaptiveAvgPool1d: (torch.adaptive_avg_pool1d, ("output_size",)),
    nn.AdaptiveAvgPool2d: (F.adaptive_avg_pool2d, ("output_size",)),
    nn.AdaptiveAvgPool3d: (F.adaptive_avg_pool3d, ("output_size",)),
    nn.AdaptiveMaxPool1d: (F.adaptive_max_pool1d, ("output_size", "return_indices")),
    nn.AdaptiveMaxPool2d: (F.adaptive_max_pool2d, ("output_size", "return_indices")),
    nn.AdaptiveMaxPool3d: (F.adaptive_max_pool3d, ("output_size", "return_indices")),
}


# exact class -> how it pads; None says that it has a value of its own
_PADS: Mapping[type[nn.Module], str | None] = {
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), None),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), None),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), "reflect"),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), "replicate"),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), "circular"),
}


def squeezes(node: fx.Node) -> bool:
    """Whether the node drops axes of size 1: which ones, depends on sizes."""
    return "squeeze" in str(node.target) and "unsqueeze" not in str(node.target)


def read_structure(node: fx.Node, module: nn.Module) -> Call | None:
    """The normal form of a node that rearranges, combines or selects, else ``None``."""
    if node.op == "call_function":
        if node.target in RESHAPES:
            return Call("reshape", 0, {"input": node.args[0]}) if node.args else None
        return _bound(node, FUNCTIONS.get(node.target))
    if node.op == "call_method":
        if node.target in RESHAPE_METHODS:
            return Call("reshape", 0, {"input": node.args[0]})
        if node.target == "permute" and not node.kwargs:
            dims = node.args[1:]
            flat = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
            return Call("permute", 0, {"input": node.args[0], "dims": flat})
        return _bound(node, METHODS.get(str(node.target)))
    if node.op == "call_module":
        return _read_leaf(node, module.get_submodule(str(node.target)))
    return None


def _bound(node: fx.Node, entry: tuple[str, int, Signature] | None) -> Call | None:
    if entry is None:
        return None
    kind, spatial, signature = entry
    arguments = bind_arguments(node, signature)
    return None if isinstance(arguments, Refusal) else Call(kind, spatial, arguments)


def _read_leaf(node: fx.Node, leaf: nn.Module) -> Call | None:
    if type(leaf) not in {**MODULES, **_PADS} or has_hooks(leaf) or "forward" in vars(leaf):
        return None
    if len(node.args) != 1 or node.kwargs:
        return None
    data = node.args[0]
    if type(leaf) in _PADS:
        mode = _PADS[type(leaf)]
        value = None if mode else leaf.value
        arguments = {"pad": leaf.padding, "mode": mode or "constant", "value": value}
        return Call("pad", 0, {"input": data, **arguments})
    if isinstance(leaf, nn.Identity):
        return Call("identity", 0, {"input": data})
    if isinstance(leaf, (nn.Flatten, nn.Unflatten)):
        return Call("reshape", 0, {"input": data})
    function, names = MODULES[type(leaf)]
    kind, spatial, signature = FUNCTIONS[function]
    names_left = [name for name in signature if name != "input"]
    values = {names_left[position]: getattr(leaf, name) for position, name in enumerate(names)}
    return Call(kind, spatial, {**signature, "input": data, **values})
