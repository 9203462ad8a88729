"""Convolution, bias, sum and ReLU as one call of cuDNN, where that is faster.

Inductor calls cuDNN for the bare convolution, and adds the bias in a kernel of its own together
with what follows. cuDNN can do all of it at once; for some shapes that is slower (pytorch#68506),
so each shape is timed once, both ways. It is a pass over Inductor's graphs, whose shapes and
layouts are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from bnfx.inner import cudnn_ops, cudnn_trial
from bnfx.inner.base import has_fixed_layout

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_PASS = "post_grad_custom_pre_pass"

# Whether the fused op is to take the place of what it is equal to.
Choose = Callable[[fx.Node, torch.Tensor], bool]


def with_fusion(patches: Mapping[str, Any], always: bool) -> dict[str, Any]:
    """Inductor's options, and the pass with them; as they are where the user has such a pass."""
    from torch._inductor import config
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    if patches.get(_PASS) or getattr(config, _PASS):
        return dict(patches)
    choose = _always if always else cudnn_trial.is_faster

    class Fuse(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            fuse(graph, choose)

        def uuid(self) -> object:
            files = (__file__, cudnn_ops.__file__, cudnn_trial.__file__)
            return (get_hash_for_files(files), always)

    cudnn_ops.register()
    return {**patches, _PASS: Fuse()}


def _always(node: fx.Node, like: torch.Tensor) -> bool:
    return True


def fuse(graph: fx.Graph, choose: Choose, device: str = "cuda") -> int:
    """Rewrite ``relu(conv)`` and ``relu(conv + z)`` in place; returns how many.

    Args:
        graph: of aten ops, with fake tensors as ``meta["val"]``.
        choose: is given the fused call, already in the graph, and what it must be like.
        device: the type of device whose convolutions are looked at.
    """
    cudnn_ops.register()
    count = 0
    for relu in graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default):
        like = relu.meta.get("val")
        if not isinstance(like, torch.Tensor) or not _is_usable(like, device):
            continue
        with graph.inserting_before(relu):
            fused = _fused(graph, relu, device)
        if fused is None:
            continue
        fused.meta.update(relu.meta)
        if not choose(fused, like):
            graph.erase_node(fused)
            continue
        relu.replace_all_uses_with(fused)
        count += 1
    if count:
        graph.eliminate_dead_code()
    return count


def _fused(graph: fx.Graph, relu: fx.Node, device: str) -> fx.Node | None:
    before = relu.args[0]
    assert isinstance(before, fx.Node)
    if _is_convolution(before, device):
        x, weight, bias, *geometry = _convolution(before)
        return graph.call_function(torch.ops.bnfx.conv_relu.default, (x, weight, bias, *geometry))
    if before.target is not torch.ops.aten.add.Tensor or before.kwargs or len(before.users) != 1:
        return None
    for conv, z in (before.args[:2], before.args[1::-1]):
        if (
            isinstance(conv, fx.Node)
            and isinstance(z, fx.Node)
            and _is_convolution(conv, device)
            and _is_alike(z, conv)
        ):
            x, weight, bias, *geometry = _convolution(conv)
            return graph.call_function(
                torch.ops.bnfx.conv_add_relu.default, (x, weight, z, bias, *geometry)
            )
    return None


def _convolution(node: fx.Node) -> tuple[Any, ...]:
    x, weight, bias, stride, padding, dilation, _, _, groups = node.args
    return x, weight, bias, stride, padding, dilation, groups


def _is_convolution(node: fx.Node, device: str) -> bool:
    """Whether it is one that cuDNN can fuse, and only what comes next reads it."""
    if node.target is not torch.ops.aten.convolution.default or node.kwargs:
        return False
    if len(node.users) != 1 or len(node.args) != 9 or node.args[6]:
        return False
    values = [_value(each) for each in node.args[:3] if each is not None]
    dtypes = {value.dtype if value is not None else None for value in values}
    return len(dtypes) == 1 and all(
        value is not None and value.device.type == device for value in values
    )


def _is_alike(z: fx.Node, conv: fx.Node) -> bool:
    one, other = _value(z), _value(conv)
    return (
        one is not None
        and other is not None
        and one.shape == other.shape
        and one.stride() == other.stride()
        and (one.dtype, one.device) == (other.dtype, other.device)
    )


def _is_usable(like: torch.Tensor, device: str) -> bool:
    return (
        like.device.type == device
        and like.dtype in _DTYPES
        and like.dim() in (4, 5)
        and has_fixed_layout(like)
    )


def _value(node: Any) -> torch.Tensor | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None
