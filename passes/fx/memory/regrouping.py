"""Values that are put back into the containers that a model gives: by ``tree_unflatten``, or as an
``OrderedDict``.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from typing import Any

from torch import fx, nn
from torch.utils import _pytree as pytree

# Python's own, which hold what they are given. pytree has named tuples go by ``namedtuple``.
_CONTAINERS = (tuple, list, dict, OrderedDict, defaultdict, deque, namedtuple)


def regrouped(node: fx.Node) -> list[fx.Node] | None:
    """What the node puts into containers, uncopied; ``None`` if it does something else."""
    known = node.target is pytree.tree_unflatten or node.target is OrderedDict
    if not known or node.kwargs or not node.args:
        return None
    if not isinstance(node.args[0], list | tuple):  # pytree takes the two the other way round, too
        return None
    found: list[fx.Node] = []
    fx.node.map_arg(node.args[0], found.append)
    return found


def runs_no_code(node: fx.Node, module: nn.Module) -> bool:
    """Whether all containers are Python's own; classes of others run code on what they get."""
    if node.target is OrderedDict:
        return True
    attribute = node.args[1]
    if not isinstance(attribute, fx.Node) or attribute.op != "get_attr":
        return False
    return _is_plain(getattr(module, str(attribute.target), None))


def _is_plain(spec: Any) -> bool:
    children = getattr(spec, "children", None)  # a method, in the versions of torch that have it
    if not isinstance(spec, pytree.TreeSpec) or not callable(children):
        return False
    if spec.type is namedtuple and not _is_pythons(spec.context):
        return False
    return (spec.type is None or spec.type in _CONTAINERS) and all(map(_is_plain, children()))


def _is_pythons(kind: type) -> bool:
    """Whether what makes a value of the class is what Python writes for a named tuple."""
    if type(kind) is not type or any("__init__" in vars(each) for each in kind.__mro__[:-1]):
        return False
    fields: tuple[str, ...] = getattr(kind, "_fields", ())
    own = namedtuple(kind.__name__, fields, rename=True)  # type: ignore[misc]
    return getattr(kind.__new__, "__code__", None) == own.__new__.__code__
