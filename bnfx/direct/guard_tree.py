"""Dynamo's guards without those that hold as long as nothing is assigned in the model.

A guard looks at a value at the end of a path from a local variable or a global one. If the path
begins at the model, and each step is an attribute of a module or an item of a dict, then the value
stays the same as long as nothing is assigned on the way; if the value cannot change by itself
either, so does the answer of the guard. Such guards are left out, and what they passed is watched.
All others stay, and everything that leads to them.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn

from bnfx.direct.watched import NotDirectError, Watched, is_one, vars_of

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

_UNKNOWN = object()


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
        roots = [(_key(each, "FrameLocalsGuardAccessor"), node) for each, node in _children(root)]
        values = {name: scope.get(name, _UNKNOWN) for name, _ in roots if isinstance(name, str)}
        for name, node in roots:
            if values.get(name) is not model:
                found = _distinct_tensors(name, node, values.get(name))
                given, distinct = [*given, *(found or ())], distinct and found is not None
        walk = _Walk(watched, distinct)
        for name, node in roots:
            if values.get(name) is model:
                walk.visit(node, model)
            else:
                walk.keep_all(node)
            walk.kept.add(node.get_source())
        kept = {root.get_source(), *walk.kept}
        cloned = root.clone_manager(lambda node: node.get_source() in kept)
    except (AttributeError, TypeError) as error:
        raise NotDirectError(f"the guards of this torch cannot be taken apart: {error}") from None
    check = _both(cloned.check, given, frozenset(walk.own_distinct))
    if not check(scope):
        raise NotDirectError("the guards that are left do not hold by themselves")
    return check


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


def _distinct_tensors(name: Any, node: Any, value: Any) -> list[_Given] | None:
    """Which tensors below a variable must be different ones; ``None``: not only such as are known.

    Args:
        name: of a local variable that is not the model, or anything else.
    """
    if not isinstance(name, str):
        return None if _asks_whether_distinct(node, True) else []
    found: list[_Given] = [(name, None)] if _asks_whether_distinct(node) else []
    for accessor, child in _children(node):
        at = _key(accessor, "TupleGetItemGuardAccessor") if type(value) is tuple else _UNKNOWN
        if isinstance(at, int) and _asks_whether_distinct(child):
            found.append((name, at))
        elif _asks_whether_distinct(child, True):
            return None
    return found


def _asks_whether_distinct(node: Any, deep: bool = False) -> bool:
    if any(type(guard).__name__ == _DISTINCT for guard in node.get_leaf_guards()):
        return True
    return deep and any(_asks_whether_distinct(child, True) for _, child in _children(node))


class _OfClass(dict[str, Any]):
    """The attributes of a class."""


class _Walk:
    """Goes through a tree of guards.

    Some tensors must be different ones. Those of the model remain so as long as nothing is
    assigned; but one that is given in a call might be one of them.

    Args:
        distinct: whether those of the model need no guard, as all others are known.

    Attributes:
        kept: the sources of nodes that stay.
        own_distinct: the ids of such tensors of the model.
    """

    def __init__(self, watched: Watched, distinct: bool) -> None:
        self.kept = set[str]()
        self.own_distinct = set[int]()
        self._plain = _PLAIN | {_DISTINCT} if distinct else _PLAIN
        self._watched = watched

    def visit(self, node: Any, value: Any) -> bool:
        """Whether a node at the end of a path from the model stays."""
        stays = not self._settled(node, value)
        for accessor, child in _children(node):
            then = _step(accessor, value)
            if then is _UNKNOWN:
                self.keep_all(child)
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


def _step(accessor: Any, value: Any) -> Any:
    """Where an accessor leads from a value that is watched; :data:`_UNKNOWN` for all others."""
    if isinstance(accessor, tuple):
        at, is_value = accessor
        items = list(value.items()) if type(value) is dict else []
        return items[at][is_value] if at < len(items) else _UNKNOWN
    kind = type(accessor).__name__
    step = _STEPS.get(kind)
    if step is None or not isinstance(value, step[0]):
        return _UNKNOWN
    try:
        return step[1](value, accessor)
    except (LookupError, TypeError):
        return _UNKNOWN


# Accessor -> the values that it is known to leave as they are while they are watched, and where it
# leads. The closure of a function cannot be assigned to; the mro and dict of a class change only
# with its version.
_STEPS: Mapping[str, tuple[type | tuple[type, ...], Callable[[Any, Any], Any]]] = {
    "GetGenericDictGuardAccessor": (nn.Module, lambda value, _: vars_of(value)),
    "DictGetItemGuardAccessor": (
        dict,
        lambda value, accessor: (
            value[_key(accessor, "DictGetItemGuardAccessor")]
            if type(value) in (dict, _OfClass)
            else _UNKNOWN  # those of other classes are not watched
        ),
    ),
    "TupleGetItemGuardAccessor": (
        tuple,
        lambda value, accessor: value[_key(accessor, "TupleGetItemGuardAccessor")],
    ),
    "TypeGuardAccessor": (nn.Module, lambda value, _: type(value)),
    "TypeMROGuardAccessor": (type, lambda value, _: value.__mro__),
    "TypeDictGuardAccessor": (type, lambda value, _: _OfClass(value.__dict__)),
    "CodeGuardAccessor": (FunctionType, lambda value, _: value.__code__),
    "ClosureGuardAccessor": (FunctionType, lambda value, _: value.__closure__),
    "FuncDefaultsGuardAccessor": (FunctionType, lambda value, _: value.__defaults__),
    "FuncKwDefaultsGuardAccessor": (FunctionType, lambda value, _: value.__kwdefaults__),
    "GetAttrGuardAccessor": (
        (CellType, FunctionType),
        lambda value, accessor: _known_attribute(value, accessor.repr()),
    ),
}
_ATTRIBUTES = ("cell_contents", "__code__", "__defaults__", "__kwdefaults__", "__closure__")


def _known_attribute(value: Any, words: str) -> Any:
    names = [name for name in _ATTRIBUTES if words == f"GetAttrGuardAccessor({name})"]
    return getattr(value, names[0]) if names else _UNKNOWN


def _key(accessor: Any, kind: str) -> Any:
    """The key of an accessor of this kind; accessors say theirs in words alone."""
    return _UNKNOWN if isinstance(accessor, tuple) else _read(accessor.repr(), kind)


@functools.lru_cache(maxsize=4096)
def _read(words: str, kind: str) -> Any:
    found = re.fullmatch(rf"{kind}\((?:key=)?(.*?)(?:, framelocals_idx=\d+)?\)", words, re.DOTALL)
    try:
        return ast.literal_eval(found[1]) if found else _UNKNOWN
    except (ValueError, SyntaxError):
        return _UNKNOWN
