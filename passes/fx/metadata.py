"""What an fx node's metadata says: shape and dtype, the user's name for it, and where it stands."""

from __future__ import annotations

import os
import re

import torch
from torch import fx

from bnfx.passes.crossing import Dims
from bnfx.passes.fx.facts.spelling import facts_of

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
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


def strides_of(value: torch.Tensor) -> Dims:
    """How far apart elements lie along each axis; none for a layout that does not tell."""
    return tuple(map(_size, value.stride())) if value.layout == torch.strided else ()


def _size(size: int | torch.SymInt) -> int | str:
    if isinstance(size, int):
        return size
    known = size.node.maybe_as_int()
    return str(size) if known is None else int(known)


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def reads_metadata_only(node: fx.Node) -> bool:
    """Whether the node looks at the shape, dtype or device of its input, and at no element."""
    facts = facts_of(node)
    if facts is None or not facts.metadata or len(node.all_input_nodes) != 1:
        return False
    # torch._assert_tensor_metadata(x, size, stride, dtype): a fold may lay a value out anew
    asserts_strides = node.args[2:3] not in ((), (None,))
    return not asserts_strides and node.kwargs.get("stride") is None


def takes_shape_of(node: fx.Node, source: fx.Node) -> bool:
    """Whether ``source`` tells an op that rearranges another input sizes, and nothing else.

    It is a size itself, or a tensor of which the op reads metadata, as in ``x.view_as(source)``.
    """
    facts = facts_of(node)
    return (facts is not None and facts.like) or _is_size(source)


def _is_size(node: fx.Node) -> bool:
    """Whether the node's value is sizes, or computed from sizes."""
    value = node.meta.get("val", node.meta.get("example_value"))
    if isinstance(value, (int, torch.SymInt, torch.Size)) or reads_metadata_only(node):
        return True
    computed = getattr(node.target, "__module__", "") == "_operator"
    return computed and all(map(_is_size, node.all_input_nodes))


def is_autocast(node: fx.Node) -> bool:
    """Whether autocast begins or ends here."""
    return "autocast" in str(getattr(node.target, "__name__", ""))


def reads_rank(node: fx.Node) -> bool:
    """Whether the node's value is the number of dimensions of its input."""
    facts = facts_of(node)
    if facts is None or facts.name not in ("dim", "ndim") or node.kwargs:
        return False
    return len(node.args) == (2 if node.target is getattr else 1)


def module_path_of(node: fx.Node) -> tuple[str, bool]:
    """The path of the module that runs the node, and whether the node *is* that module's call.

    Only a call of a module of torch's own is: an ``F.batch_norm`` in the forward of a user's block
    is not, so that two in one block stay apart.
    """
    if node.op == "call_module":
        return str(node.target), True
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack or not isinstance(stack[-1], tuple):
        return "", False
    path, owner = stack[-1]
    module = getattr(owner, "__module__", "") if isinstance(owner, type) else str(owner)
    path = readable_path(str(path))
    return path, bool(path) and module.startswith("torch.nn.modules")


def name_of(node: fx.Node) -> str:
    """The path of the module whose call the node is, else the node's own name, behind the path of
    the module that runs it.
    """
    path, is_call = module_path_of(node)
    if is_call:
        return path
    return f"{path}:{node.name}" if path else node.name


def readable_path(source: str) -> str:
    """``L['self']._modules['layer1'][0].bn1`` -> ``layer1.0.bn1``. (Of a class with a
    ``__getattr__`` of its own, ``._modules`` is written ``.__dict__['_modules']``.)
    """
    path = re.sub(r"^[LG]\[[^\]]*\]", "", source)
    path = _SUBSCRIPT.sub(r".\1", path).replace(".__dict__", "").replace("._modules", "")
    return path.replace("._parameters", "").replace("._buffers", "").strip(".")


def location_of(node: fx.Node) -> str:
    """``file:line`` of the innermost frame that is not PyTorch's own, or ``""``."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in frames if not file.startswith(_TORCH)]
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""
