"""ATen's decomposed inference IR in the words that the lifter knows, and back.

``torch.export``'s training IR calls ``aten.conv2d``, ``aten.batch_norm`` and ``aten.linear``. After
``run_decompositions()`` the same are ``aten.convolution``, one part of the tuple that
``aten._native_batch_norm_legit_no_training`` returns, and ``addmm`` or ``mm`` with a transposed
weight. Both directions are equalities, so a node that no rule touches is written as it was.

Ops that write over a value which nobody else will see become functions, and stay so.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from bnfx.passes.fx.memory.writes import functional_form, written_values
from bnfx.torch_private import OpOverload

aten = torch.ops.aten
COMPOSED = "bnfx_composed"  # in node.meta: it stood in another form, and goes back to that

_CONVS: dict[int, Any] = {
    1: aten.conv1d.default,
    2: aten.conv2d.default,
    3: aten.conv3d.default,
}
_TRANSPOSED: dict[int, Any] = {
    1: aten.conv_transpose1d.default,
    2: aten.conv_transpose2d.input,
    3: aten.conv_transpose3d.input,
}
_ADAPTIVE_MAX: dict[Any, Any] = {
    aten.adaptive_max_pool1d.default: F.adaptive_max_pool1d,
    aten.adaptive_max_pool2d.default: F.adaptive_max_pool2d,
    aten.adaptive_max_pool3d.default: F.adaptive_max_pool3d,
}
# (mode, padded axes) of ``aten.pad`` -> what it is decomposed to
_PADS: dict[tuple[str, int], Any] = {
    ("reflect", 1): aten.reflection_pad1d.default,
    ("reflect", 2): aten.reflection_pad2d.default,
    ("reflect", 3): aten.reflection_pad3d.default,
    ("replicate", 1): aten.replication_pad1d.default,
    ("replicate", 2): aten.replication_pad2d.default,
    ("replicate", 3): aten.replication_pad3d.default,
}
_CONSTANT_PAD: Any = aten.constant_pad_nd.default
_PAD_MODES = {target: mode for (mode, _), target in _PADS.items()} | {_CONSTANT_PAD: "constant"}
_NORM: Any = aten._native_batch_norm_legit_no_training.default
# what returns a tuple -> what returns its first part alone
_POOLS: dict[Any, Any] = {
    aten.max_pool2d_with_indices.default: aten.max_pool2d.default,
    **_ADAPTIVE_MAX,
}
# What the writer of graphs calls, in ATen's words.
_WRITTEN: dict[Any, Any] = {
    torch.mul: aten.mul.Tensor,
    torch.add: aten.add.Tensor,
    F.linear: aten.linear.default,
    F.pad: aten.pad.default,
    "contiguous": aten.contiguous.default,
    "to": aten.to.dtype,
    torch.conv1d: aten.conv1d.default,
    torch.conv2d: aten.conv2d.default,
    torch.conv3d: aten.conv3d.default,
    torch.conv_transpose1d: aten.conv_transpose1d.default,
    torch.conv_transpose2d: aten.conv_transpose2d.input,
    torch.conv_transpose3d: aten.conv_transpose3d.input,
}


def compose(graph: fx.Graph) -> bool:
    """Say what the lifter knows, in place; whether there was anything decomposed."""
    decomposed = False
    for node in list(graph.nodes):
        form = _composed(node)
        if form is None:
            continue
        target, args = form
        node.target, node.args, node.kwargs = target, args, {}
        node.meta[COMPOSED] = True
        decomposed |= target not in _ADAPTIVE_MAX.values()  # that one has a tuple everywhere
    graph.eliminate_dead_code(is_impure_node=_stays)
    return decomposed


def functionalise(module: fx.GraphModule) -> None:
    """Let ops that write over a value which nobody else will see make a new one; in place."""
    for node in written_values(module.graph, module, lambda written: ()).in_place:
        if node.op == "call_function" and isinstance(node.target, OpOverload):
            form = functional_form(node)
            assert form is not None, "who is found to write in place has such a form"
            node.target = form


def _stays(node: fx.Node) -> bool:
    """Only what composing left without a reader may go: those are pure, by name."""
    left = (_NORM, *_POOLS, aten.permute.default, aten.t.default)
    part = node.target is operator.getitem and isinstance(node.args[0], fx.Node)
    source: Any = node.args[0] if part else node
    return not (node.op == "call_function" and source.target in left)


def _composed(node: fx.Node) -> tuple[Any, tuple[Any, ...]] | None:
    if node.op != "call_function" or (node.kwargs and node.target is not operator.getitem):
        return None
    args: Any = node.args
    if node.target is aten.convolution.default:
        data, weight, bias, stride, pad, dilation, transposed, extra, groups = args
        spatial = weight.meta["val"].dim() - 2
        if transposed:
            rest = (stride, pad, extra, groups, dilation)
            return _TRANSPOSED[spatial], (data, weight, bias, *rest)
        return _CONVS[spatial], (data, weight, bias, stride, pad, dilation, groups)
    if node.target is operator.getitem and isinstance(args[0], fx.Node) and args[1] == 0:
        source = args[0]
        if source.target not in (_NORM, *_POOLS) or source.kwargs:
            return None
        if any(user.args[1] != 0 and user.users for user in source.users):
            return None
        if source.target in _POOLS:
            return _POOLS[source.target], source.args
        return aten.batch_norm.default, (*source.args[:5], False, *source.args[5:], False)
    if node.target in _PAD_MODES:
        value = args[2] if len(args) > 2 else None
        return aten.pad.default, (args[0], args[1], _PAD_MODES[node.target], value)
    if node.target is aten.addmm.default and (weight := _transposed(args[2])) is not None:
        if args[0].meta["val"].dim() != 1 or args[0].meta["val"].shape[0] == 1:
            return None  # broadcast, which a linear layer's bias is not
        return aten.linear.default, (args[1], weight, args[0])
    if node.target is aten.mm.default and (weight := _transposed(args[1])) is not None:
        return aten.linear.default, (args[0], weight, None)
    return None


def _transposed(node: Any) -> fx.Node | None:
    """The matrix of which ``node`` is the transpose."""
    if not isinstance(node, fx.Node) or node.kwargs:
        return None
    if node.target is aten.permute.default and list(node.args[1]) == [1, 0]:  # type: ignore[arg-type]
        return node.args[0]  # type: ignore[return-value]
    if node.target is aten.t.default:
        return node.args[0]  # type: ignore[return-value]
    return None


def settle(graph: fx.Graph, decomposed: bool) -> None:
    """Make every call one of ATen's, in the dialect that the graph came in; in place."""
    for node in list(graph.nodes):
        written = node.op in ("call_function", "call_method") and node.target in _WRITTEN
        if written:
            node.op, node.target = "call_function", _WRITTEN[node.target]
        if node.meta.pop(COMPOSED, False) or (written and decomposed):
            _decompose(node)


def _decompose(node: fx.Node) -> None:
    target: Any = node.target
    write = _BACK.get(target)
    if write is not None:
        write(node)


def _full(node: fx.Node, *defaults: Any) -> tuple[Any, ...]:
    """The node's positional arguments, with these for those at the end that are not given."""
    assert not node.kwargs
    missing = len(defaults) - len(node.args)
    return (*node.args, *(defaults[-missing:] if missing > 0 else ()))


def _convolution(spatial: int, transposed: bool) -> Callable[[fx.Node], None]:
    def write(node: fx.Node) -> None:
        one, zero = [1] * spatial, [0] * spatial
        if transposed:
            data, weight, bias, stride, pad, extra, groups, dilation = _full(
                node, None, None, None, one, zero, zero, 1, one
            )
        else:
            data, weight, bias, stride, pad, dilation, groups = _full(
                node, None, None, None, one, zero, one, 1
            )
            extra = zero
        rest = (stride, pad, dilation, transposed, extra, groups)
        node.target, node.args = aten.convolution.default, (data, weight, bias, *rest)

    return write


def _first_of(target: Any) -> Callable[[fx.Node], None]:
    """The node becomes the first part of what ``target`` returns."""

    def write(node: fx.Node) -> None:
        args: tuple[Any, ...] = node.args
        if target is _NORM:
            args = (*args[:5], *args[6:8])
        with node.graph.inserting_before(node):
            whole = node.graph.call_function(target, args)
        whole.meta = {key: value for key, value in node.meta.items() if key != "val"}
        node.target, node.args = operator.getitem, (whole, 0)

    return write


def _matrix_product(node: fx.Node) -> None:
    data, weight, bias = _full(node, None, None, None)
    if data.meta["val"].dim() != 2:
        return
    with node.graph.inserting_before(node):
        turned = node.graph.call_function(aten.permute.default, (weight, [1, 0]))
    turned.meta = {key: value for key, value in node.meta.items() if key != "val"}
    if bias is None:
        node.target, node.args = aten.mm.default, (data, turned)
    else:
        node.target, node.args = aten.addmm.default, (bias, data, turned)


def _pad(node: fx.Node) -> None:
    data, widths, mode, value = _full(node, None, None, "constant", None)
    if mode == "constant":
        node.target, node.args = _CONSTANT_PAD, (data, widths, value or 0.0)
    else:
        node.target, node.args = _PADS[mode, len(widths) // 2], (data, widths)


def _lay_out(node: fx.Node) -> None:
    node.target = aten.clone.default
    node.kwargs = {"memory_format": torch.contiguous_format, **node.kwargs}


def _cast(node: fx.Node) -> None:
    data, dtype = node.args
    node.target, node.args = aten._to_copy.default, (data,)
    node.kwargs = {"dtype": dtype}


_BACK: dict[Any, Callable[[fx.Node], None]] = {
    **{target: _convolution(rank, False) for rank, target in _CONVS.items()},
    **{target: _convolution(rank, True) for rank, target in _TRANSPOSED.items()},
    aten.batch_norm.default: _first_of(_NORM),
    aten.linear.default: _matrix_product,
    aten.pad.default: _pad,
    **{alone: _first_of(whole) for whole, alone in _POOLS.items()},
    aten.contiguous.default: _lay_out,
    aten.to.dtype: _cast,
}
