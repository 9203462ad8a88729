"""What an fx node's metadata says: shape and dtype, the user's name for it, and where it stands."""

from __future__ import annotations

import operator
import re

import torch
from torch import fx

from bnfx.passes.crossing import Dims
from bnfx.passes.fx.calls.aten import SHAPES_OF

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_SUBSCRIPT = re.compile(r"""\[['"]?([^\]'"]+)['"]?\]""")


def value_of(node: fx.Node) -> torch.Tensor | None:
    """The node's fake tensor, where Dynamo, export or shape propagation left one."""
    for key in ("val", "example_value"):
        value = node.meta.get(key)
        if isinstance(value, torch.Tensor):
            return value
    return None


def dims_of(value: torch.Tensor) -> Dims:
    """The sizes of a fake tensor; one that is not fixed is the name that the IR has for it."""
    return tuple(_size(size) for size in value.shape)


def _size(size: int | torch.SymInt) -> int | str:
    if isinstance(size, int):
        return size
    known = size.node.maybe_as_int()
    return str(size) if known is None else int(known)


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``"float32"``."""
    return str(dtype).removeprefix("torch.")


_METADATA_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "layout"})
_METADATA_METHODS = frozenset({"size", "dim", "ndimension", "numel", "is_floating_point"})


def reads_metadata_only(node: fx.Node) -> bool:
    """Whether the node looks at the shape, dtype or device of its input, and at no element."""
    if node.op == "call_method":
        return node.target in _METADATA_METHODS and len(node.all_input_nodes) == 1
    if node.op == "call_function" and node.target in (getattr, operator.attrgetter):
        return node.args[1] in _METADATA_ATTRIBUTES
    return False


def takes_shape_of(node: fx.Node, source: fx.Node) -> bool:
    """Whether ``source`` tells an op that rearranges another input sizes, and nothing else.

    It is a size itself, or the tensor whose shape ``x.view_as(source)`` takes.
    """
    if node.op == "call_method" and node.target in ("view_as", "reshape_as"):
        return True
    return node.target in SHAPES_OF or _is_size(source)


def _is_size(node: fx.Node) -> bool:
    """Whether the node's value is sizes, or computed from sizes."""
    value = node.meta.get("val", node.meta.get("example_value"))
    if isinstance(value, (int, torch.SymInt, torch.Size)) or reads_metadata_only(node):
        return True
    computed = getattr(node.target, "__module__", "") == "_operator"
    return computed and all(map(_is_size, node.all_input_nodes))


def is_autocast(node: fx.Node) -> bool:
    """Whether autocast begins or ends here."""
    return node.op == "call_function" and "autocast" in str(getattr(node.target, "__name__", ""))


def reads_rank(node: fx.Node) -> bool:
    """Whether the node's value is the number of dimensions of its input."""
    if node.op == "call_method":
        return node.target in ("dim", "ndimension") and len(node.args) == 1 and not node.kwargs
    return node.target is getattr and node.args[1:] == ("ndim",)


def name_of(node: fx.Node) -> str:
    """The path of the module that the node belongs to, else the node's own name.

    Only a module of torch's own whose call *is* the node gives its path: an ``F.batch_norm`` in
    the forward of a user's block is named by the node, so that two in one block stay apart.
    """
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack and isinstance(stack[-1], tuple):
        path, owner = stack[-1]
        module = getattr(owner, "__module__", "") if isinstance(owner, type) else str(owner)
        path = readable_path(str(path))
        if path:
            return path if module.startswith("torch.nn.modules") else f"{path}:{node.name}"
    return node.name


def readable_path(source: str) -> str:
    """``L['self']._modules['layer1'][0].bn1`` -> ``layer1.0.bn1``."""
    path = re.sub(r"^[LG]\[[^\]]*\]", "", source)
    path = _SUBSCRIPT.sub(r".\1", path).replace("._modules", "")
    return path.replace("._parameters", "").replace("._buffers", "").strip(".")


def location_of(node: fx.Node) -> str:
    """``file:line`` of the innermost frame of the user's code, or ``""``."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""
