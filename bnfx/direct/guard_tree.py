"""Dynamo's guards without those that hold as long as nothing is assigned in the model.

A guard looks at a value at the end of a path from a local variable or a global one. If the path
begins at the model, and each step is an attribute of a module or an item of a dict, then the value
stays the same as long as nothing is assigned on the way; if the value cannot change by itself
either, so does the answer of the guard. Such guards are left out, and what they passed is watched.
All others stay, and everything that leads to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from bnfx.direct.guard_steps import UNKNOWN, key_of, step
from bnfx.direct.watched import NotDirectError, Watched, is_one

# Guards that look at nothing but the value itself.
_PLAIN = frozenset(
    {
        *("TYPE_MATCH", "ID_MATCH", "EQUALS_MATCH", "TRUE_MATCH", "FALSE_MATCH", "NONE_MATCH"),
        *("NOT_NONE", "LENGTH_CHECK", "DICT_LENGTH", "DICT_CONTAINS", "DICT_VERSION"),
        *("TENSOR_MATCH", "DIMENSION_DYNAMIC_MARKING_GUARD", "NO_HASATTR"),
    }
)
# Those that ask whether it is of one type, or one very object.
_WHICH = frozenset({"TYPE_MATCH", "ID_MATCH", "NOT_NONE"})

# It asks whether a tensor is none of the others that it was asked of.
_DISTINCT = "NO_TENSOR_ALIASING"


def without_model(root: Any, model: nn.Module, scope: dict[str, Any], watched: Watched) -> Check:
    """The guards that are left.

    Args:
        root: of Dynamo's guards of one compiled graph, which hold.
        model: whose assignments are watched.
        scope: the local variables of a call.
        watched: is given what is to be watched.

    Raises:
        NotDirectError: if this torch has guards that cannot be taken apart.
    """
    try:
        given, distinct = list[_Given](), True
        roots = [(key_of(each, "FrameLocalsGuardAccessor"), node) for each, node in _children(root)]
        values = {name: scope.get(name, UNKNOWN) for name, _ in roots}
        for name, node in roots:
            if values.get(name) is not model:
                found = _distinct_tensors(name, node)
                given, distinct = [*given, *(found or ())], distinct and found is not None
        walk = _Walk.over(roots, values, model, watched, distinct)
        if walk.has_others:
            walk = _Walk.over(roots, values, model, watched, False)
        kept = {root.get_source(), *walk.kept}
        cloned = root.clone_manager(lambda node: node.get_source() in kept)
    except (AttributeError, TypeError) as error:
        raise NotDirectError(f"the guards of this torch cannot be taken apart: {error}") from None
    return _both(cloned.check, given, frozenset(walk.own_distinct))


Check = Callable[[dict[str, Any]], bool]
_Given = tuple[str, int | None]  # a local variable, or an item of one


def _both(guards: Check, given: list[_Given], ids: frozenset[int]) -> Check:
    """Guards, and that what is given in a call is no tensor of the model with these ids."""
    if not given or not ids:
        return guards

    def check(scope: dict[str, Any]) -> bool:
        if not guards(scope):
            return False
        for name, at in given:
            value = scope[name]
            if id(value if at is None else value[at]) in ids:
                return False
        return True

    return check


def _distinct_tensors(name: Any, node: Any) -> list[_Given] | None:
    """Which tensors below a variable must be different ones; ``None``: not only such as are known.

    Args:
        name: of a local variable that is not the model, or anything else.
    """
    if not isinstance(name, str):
        return None if _asks_whether_distinct(node, True) else []
    found: list[_Given] = [(name, None)] if _asks_whether_distinct(node) else []
    for accessor, child in _children(node):
        at = key_of(accessor, "TupleGetItemGuardAccessor")
        if isinstance(at, int) and _asks_whether_distinct(child):
            found.append((name, at))
        elif _asks_whether_distinct(child, True):
            return None
    return found


def _asks_whether_distinct(node: Any, deep: bool = False) -> bool:
    if any(type(guard).__name__ == _DISTINCT for guard in node.get_leaf_guards()):
        return True
    return deep and any(_asks_whether_distinct(child, True) for _, child in _children(node))


class _Walk:
    """Goes through a tree of guards.

    Some tensors must be different ones. Those of the model remain so as long as nothing is
    assigned; but one that is given in a call might be one of them, and one in a list of the model,
    which nobody watches, may become one of them.

    Args:
        distinct: whether those of the model need no guard, as all others are known.

    Attributes:
        kept: the sources of nodes that stay.
        own_distinct: the ids of such tensors of the model.
        has_others: whether it has such tensors at the end of paths that are not watched.
    """

    def __init__(self, watched: Watched, distinct: bool) -> None:
        self.kept = set[str]()
        self.own_distinct = set[int]()
        self.has_others = False
        self._plain = _PLAIN | {_DISTINCT} if distinct else _PLAIN
        self._watched = watched

    @staticmethod
    def over(
        roots: list[tuple[Any, Any]],
        values: dict[str, Any],
        model: nn.Module,
        watched: Watched,
        distinct: bool,
    ) -> _Walk:
        walk = _Walk(watched, distinct)
        for name, node in roots:
            if values.get(name) is model:
                walk.visit(node, model)
            else:
                walk.keep_all(node)
            walk.kept.add(node.get_source())
        return walk

    def visit(self, node: Any, value: Any) -> bool:
        """Whether a node at the end of a path from the model stays."""
        stays = not self._settled(node, value)
        for accessor, child in _children(node):
            then = step(accessor, value)
            if then is UNKNOWN:
                self.keep_all(child)
                self.has_others |= _asks_whether_distinct(child, True)
                stays = True
            else:
                stays |= self.visit(child, then)
        if stays:
            self.kept.add(node.get_source())
        return stays

    def _settled(self, node: Any, value: Any) -> bool:
        """Whether its guards hold as long as nothing is assigned in what is watched."""
        found = {type(guard).__name__ for guard in node.get_leaf_guards()}
        watched = self._watched.add(value)
        if _DISTINCT in found:
            self.own_distinct.add(id(value))
        asks = "NO_HASATTR" in found and isinstance(value, Tensor)  # whose own nobody watches
        plain = self._plain if watched else _WHICH if is_one(value) else set()
        return not asks and found <= plain

    def keep_all(self, node: Any) -> None:
        self.kept.add(node.get_source())
        for _, child in _children(node):
            self.keep_all(child)


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    """Accessors and the nodes that they lead to; of the items of a dict, ``(at, is a key)``."""
    yield from zip(node.get_accessors(), node.get_child_managers(), strict=True)
    if hasattr(node, "get_key_value_managers"):
        for at, pair in node.get_key_value_managers().items():
            for is_value, child in enumerate(pair):
                if child is not None:
                    yield (at, is_value), child
