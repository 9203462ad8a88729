"""The calls that affine maps may cross, in one normal form, whatever way they were written.

As in :mod:`bnfx.passes.fx.calls.call`, a call is known only if every one of its arguments is.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from bnfx.passes.fx.calls.call import Call, bind
from bnfx.passes.fx.calls.modules import facts_of_leaf
from bnfx.passes.fx.calls.signatures import (
    ADAPTIVE_AVG,
    ADAPTIVE_MAX,
    ALPHA_DROPOUT,
    AMAX,
    AVG_POOL,
    AVG_POOL_1D,
    CAT,
    DIMS,
    DROPOUT,
    DROPOUT_OF_ATEN,
    FACTOR,
    IN_PLACE,
    INDEX,
    INTERPOLATE,
    LAYOUT,
    LEAKY,
    MAX_POOL,
    MEAN,
    MOVED,
    NARROW,
    PAD,
    PAIR,
    PLAIN,
    SELECT,
    SLICE,
    WEIGHT,
    CallForm,
    signature,
)
from bnfx.passes.fx.facts.spelling import facts_of
from bnfx.passes.fx.metadata import value_of
from bnfx.passes.refusals import Refusal

# Same elements, in row-major order: only shapes tell the rest.
_RESHAPE = CallForm("reshape", None)
# The same value, if it was of the dtype and on the device before.
_CAST = CallForm("cast", None)
_DROPOUT = CallForm("dropout", DROPOUT, native=DROPOUT_OF_ATEN)


def _resize(mode: str, *corners: str) -> CallForm:
    return CallForm(
        "interpolate", signature(" ".join(("output_size", *corners, "scales")), mode=mode)
    )


STRUCTURE: Mapping[str, CallForm] = {
    "alias": CallForm("identity", PLAIN),
    "clone": CallForm("identity", LAYOUT),
    "contiguous": CallForm("identity", LAYOUT),
    "detach": CallForm("identity", PLAIN),
    "bfloat16": _CAST,
    "double": _CAST,
    "float": _CAST,
    "half": _CAST,
    "to": _CAST,
    "type": _CAST,
    "type_as": _CAST,
    "dropout": _DROPOUT,
    "dropout1d": _DROPOUT,
    "dropout2d": _DROPOUT,
    "dropout3d": _DROPOUT,
    "feature_dropout": _DROPOUT,
    "alpha_dropout": CallForm("dropout", ALPHA_DROPOUT, native=DROPOUT_OF_ATEN),
    "relu": CallForm("relu", IN_PLACE),
    "leaky_relu": CallForm("relu", LEAKY),
    "prelu": CallForm("relu", WEIGHT),
    "flatten": _RESHAPE,
    "reshape": _RESHAPE,
    "reshape_as": _RESHAPE,
    "squeeze": _RESHAPE,
    "unflatten": _RESHAPE,
    "unsqueeze": _RESHAPE,
    "view": _RESHAPE,
    "view_as": _RESHAPE,
    "permute": CallForm("permute", DIMS),
    "transpose": CallForm("transpose", PAIR),
    "movedim": CallForm("movedim", MOVED),
    "t": CallForm("t", PLAIN),
    "max_pool1d": CallForm("max_pool", MAX_POOL, 1),
    "max_pool2d": CallForm("max_pool", MAX_POOL, 2),
    "max_pool3d": CallForm("max_pool", MAX_POOL, 3),
    "avg_pool1d": CallForm("avg_pool", AVG_POOL_1D, 1),
    "avg_pool2d": CallForm("avg_pool", AVG_POOL, 2),
    "avg_pool3d": CallForm("avg_pool", AVG_POOL, 3),
    "adaptive_avg_pool1d": CallForm("adaptive_avg", ADAPTIVE_AVG, 1),
    "adaptive_avg_pool2d": CallForm("adaptive_avg", ADAPTIVE_AVG, 2),
    "adaptive_avg_pool3d": CallForm("adaptive_avg", ADAPTIVE_AVG, 3),
    "adaptive_max_pool1d": CallForm("adaptive_max", ADAPTIVE_MAX, 1),
    "adaptive_max_pool2d": CallForm("adaptive_max", ADAPTIVE_MAX, 2),
    "adaptive_max_pool3d": CallForm("adaptive_max", ADAPTIVE_MAX, 3),
    "mean": CallForm("mean", MEAN),
    "amax": CallForm("amax", AMAX),
    "interpolate": CallForm("interpolate", INTERPOLATE),
    "upsample_nearest1d": _resize("nearest"),
    "upsample_nearest2d": _resize("nearest"),
    "upsample_nearest3d": _resize("nearest"),
    "_upsample_nearest_exact1d": _resize("nearest-exact"),
    "_upsample_nearest_exact2d": _resize("nearest-exact"),
    "_upsample_nearest_exact3d": _resize("nearest-exact"),
    "upsample_linear1d": _resize("linear", "corners"),
    "upsample_bilinear2d": _resize("bilinear", "corners"),
    "upsample_trilinear3d": _resize("trilinear", "corners"),
    "upsample_bicubic2d": _resize("bicubic", "corners"),
    "pad": CallForm("pad", PAD),
    "pixel_shuffle": CallForm("pixel_shuffle", FACTOR),
    "pixel_unshuffle": CallForm("pixel_unshuffle", FACTOR),
    "channel_shuffle": CallForm("channel_shuffle", FACTOR),
    "cat": CallForm("cat", CAT),
    "narrow": CallForm("narrow", NARROW),
    "select": CallForm("select", SELECT),
    "slice": CallForm("slice", SLICE),
    "getitem": CallForm("getitem", INDEX),
}
# What a module calls an argument, where it is not the function's name for it.
_FACTORS = {"pixel_shuffle": "upscale_factor", "pixel_unshuffle": "downscale_factor"}
_FACTORS |= {"channel_shuffle": "groups"}
_PADS = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}


def squeezes(node: fx.Node) -> bool:
    """Whether the node drops axes of size 1: which ones, depends on sizes."""
    facts = facts_of(node)
    return facts is not None and facts.name == "squeeze"


def read_structure(node: fx.Node, module: nn.Module) -> Call | None:
    """The normal form of a node that rearranges, combines or selects, else ``None``."""
    if node.op == "call_module":
        return _read_leaf(node, module.get_submodule(str(node.target)))
    facts = facts_of(node)
    form = None if facts is None else STRUCTURE.get(facts.name)
    if form is None or not node.args:
        return None
    if form.signature is None:
        return _of_shape(node, form)
    if form.kind == "permute" and not node.kwargs:
        dims = node.args[1:]
        flat = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
        return Call("permute", 0, {"input": node.args[0], "dims": flat})
    call = bind(node, form)
    return None if isinstance(call, Refusal) else call


def _of_shape(node: fx.Node, form: CallForm) -> Call | None:
    """A call of which only metadata say what it does."""
    source = node.args[0]
    if form.kind != "cast":
        return Call(form.kind, 0, {"input": source})
    before = value_of(source) if isinstance(source, fx.Node) else None
    after = value_of(node)
    if before is None or after is None:
        return None
    if (before.dtype, before.device) != (after.dtype, after.device):
        return None
    return Call("identity", 0, {"input": source})


def _read_leaf(node: fx.Node, leaf: nn.Module) -> Call | None:
    facts = facts_of_leaf(leaf)
    form = None if facts is None else STRUCTURE.get(facts.name)
    if facts is None or form is None or len(node.args) != 1 or node.kwargs:
        return None
    data = node.args[0]
    if form.signature is None:
        return Call(form.kind, 0, {"input": data})
    if facts.name == "pad":
        mode = next((_PADS[word] for word in _PADS if type(leaf).__name__.startswith(word)), None)
        value = None if mode else leaf.value
        arguments = {"pad": leaf.padding, "mode": mode or "constant", "value": value}
        return Call("pad", 0, {"input": data, **arguments})
    given = {name: _FACTORS.get(facts.name, name) for name in form.signature if name != "input"}
    values = {name: getattr(leaf, key) for name, key in given.items() if hasattr(leaf, key)}
    return Call(form.kind, form.spatial, {**form.signature, "input": data, **values})
