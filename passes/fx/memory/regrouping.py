"""Values that are put back into the containers that a model gives: ``tree_unflatten``."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from typing import Any

from torch import fx, nn
from torch.utils import _pytree as pytree

# Python's own, which hold what they are given. pytree has named tuples go by ``namedtuple``.
_CONTAINERS = (tuple, list, dict, OrderedDict, defaultdict, deque, namedtuple)


def regrouped(node: fx.Node) -> list[fx.Node] | None:
    """What the node puts into containers, uncopied; ``None`` if it does something else."""
    if node.op != "call_function" or node.target is not pytree.tree_unflatten:
        return None
    if node.kwargs or len(node.args) != 2:
        return None
    found: list[fx.Node] = []
    fx.node.map_arg(node.args[0], found.append)
    return found


def runs_no_code(node: fx.Node, module: nn.Module) -> bool:
    """Whether all containers are Python's own; classes of others run code on what they get."""
    attribute = node.args[1]
    if not isinstance(attribute, fx.Node) or attribute.op != "get_attr":
        return False
    return _is_plain(getattr(module, str(attribute.target), None))


def _is_plain(spec: Any) -> bool:
    children = getattr(spec, "children", None)  # a method, in the versions of torch that have it
    if not isinstance(spec, pytree.TreeSpec) or not callable(children):
        return False
    if spec.type is namedtuple and spec.context.__bases__ != (tuple,):
        return False
    return (spec.type is None or spec.type in _CONTAINERS) and all(map(_is_plain, children()))
