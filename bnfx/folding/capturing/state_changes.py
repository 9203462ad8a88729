"""Whether a model's answer rests on what an earlier call of it left behind.

A graph holds no Python state: what ``forward`` writes to objects (``self.calls += 1``, a list, a
global) would be done once, while it is captured, and its value then would be part of the graph.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from bnfx.errors import CaptureError
from bnfx.folding.capturing.taken_arguments import check_answer
from bnfx.folding.given import WAY_OUT, ExampleInputs, copied
from bnfx.folding.verify import allowed, answer, answer_and_changes, relative_error


class StateError(CaptureError):
    """A graph would lose what ``forward`` keeps from call to call."""


_TABLES = ("_parameters", "_buffers", "_modules")
_Place = tuple[str, str, str]  # path of a module, table in it or "", name
# How Dynamo names what forward wrote to: an object reached from the model, or from its globals.
_LIST = re.compile(r"side effects happened.*double check: (\[.*\])\s*$", re.DOTALL)
_MODULE = re.compile(r"L\['self'\](\._modules\['[^']*'\])*(\._buffers|\._parameters)?")


def check_no_state(model: nn.Module, inputs: ExampleInputs) -> None:
    """Run a copy; what that changed in it must be of no use to the next call.

    That is tried out: without the attributes that a call rebinds, a call still answers the same.

    Raises:
        CaptureError: if a call reads what an earlier one left, exchanges a parameter or buffer,
            writes to a container that it is given (or that is a default), or changes state of the
            process, such as the default dtype, for good.
    """
    used = copied(model)
    before = _held(used)
    args, kwargs = inputs.copied()
    bound = inspect.signature(used.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    containers = dict(_containers(bound.arguments))
    first, changes = answer_and_changes(used, args, kwargs)
    if changes:
        raise StateError(changes_state(model, changes))
    check_answer(type(model).__name__, first)
    for name, seen in containers.items():
        if not seen.is_still(_Seen(seen.value)):
            raise StateError(
                f"forward of {type(model).__name__} writes to its argument {name}, which a graph "
                f"cannot: the caller, or a later call, could read it. {WAY_OUT}"
            )
    changed = _changed(before, _held(used))
    if not changed:
        return
    table = next((place for place in changed if place[1]), None)
    if table is not None:
        raise StateError(_refusal(model, table))
    bare = copied(model)
    for path, _, name in changed:
        vars(bare.get_submodule(path)).pop(name, None)
    try:
        again = answer(bare, inputs)
    except Exception as error:
        raise StateError(_refusal(model, changed[0])) from error
    if not relative_error(again, first) <= allowed(True, first):
        raise StateError(_refusal(model, changed[0]))


class Watch:
    """What a model holds before ``forward`` runs once with symbols."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._by_path = {path: _held_by(path, m) for path, m in self._modules.items()}
        self._before = {place: s for held in self._by_path.values() for place, s in held.items()}
        self._changed: list[_Place] = []

    def restore(self) -> None:
        """Bind the attributes that were bound to symbols to what they were."""
        changed = _changed(self._before, _held(self._model))
        self._changed += changed
        for place in changed:
            path, table, name = place
            if path not in self._modules:
                continue  # of a module that the call made
            attributes: Any = vars(self._modules[path])
            held = attributes[table] if table else attributes
            if place in self._before:
                held[name] = self._before[place].as_it_was()
            else:
                held.pop(name, None)

    def check_module(self, path: str) -> None:
        """Raise :class:`StateError` if an attribute of a module is other than before the call."""
        if changed := _changed(self._by_path[path], _held_by(path, self._modules[path])):
            raise StateError(_refusal(self._model, changed[0]))

    def check(self) -> None:
        """Raise :class:`StateError` if an attribute of the model had been changed."""
        if any(name.startswith("_tensor_constant") for _, _, name in self._changed):
            raise StateError(
                f"forward of {type(self._model).__name__} makes a tensor, which torch.fx keeps "
                "as it is, also in another dtype. Pass example inputs"
            )
        if changed := self._changed:
            raise StateError(
                f"{_refusal(self._model, changed[0])}. Pass example inputs: then it is tried out "
                "whether that matters"
            )


def check_side_effects(model: nn.Module, messages: Sequence[str]) -> None:
    """Refuse what Dynamo says that forward writes to besides the attributes of modules.

    Raises:
        CaptureError: naming it.
    """
    for message in messages:
        found = _LIST.search(message)
        for source in ast.literal_eval(found[1]) if found else ():
            if not _MODULE.fullmatch(source):
                what = re.sub(r"^[LG]\['\w+'\](\._modules\['_export_root'\])?\.?", "", source)
                raise StateError(
                    f"forward of {type(model).__name__} writes to {what}, which a graph cannot: "
                    f"later calls could read it. {WAY_OUT}"
                )


def changes_state(model: nn.Module, changes: Sequence[str]) -> str:
    """That a call of the model leaves this state of the process other than it found it."""
    return (
        f"forward of {type(model).__name__} {changes[0]} for all that is computed after it, which "
        f"a graph would not. {WAY_OUT}"
    )


def _refusal(model: nn.Module, place: _Place) -> str:
    path, _, name = place
    where = f"{path}.{name}" if path else name
    return (
        f"forward of {type(model).__name__} writes to {where}, which a graph cannot, and later "
        f"calls read it. {WAY_OUT}"
    )


def _held(model: nn.Module) -> dict[_Place, Any]:
    """What each attribute of each module is bound to, and what a container holds."""
    held: dict[_Place, Any] = {}
    for path, module in model.named_modules():
        held |= _held_by(path, module)
    return held


def _held_by(path: str, module: nn.Module) -> dict[_Place, _Seen]:
    held: dict[_Place, _Seen] = {}
    for name, value in vars(module).items():
        if name in _TABLES:
            held.update({(path, name, key): _Seen(entry) for key, entry in value.items()})
        else:
            held[path, "", name] = _Seen(value)
    return held


def _containers(held: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, _Seen]]:
    """The containers among arguments, by how code would write them."""
    for key, value in held.items():
        name = f"{path}[{key!r}]" if path else str(key)
        if isinstance(value, (list, tuple, set)):
            yield name, _Seen(value)
            yield from _containers(dict(enumerate(value)), name)
        elif isinstance(value, Mapping):
            yield name, _Seen(value)
            yield from _containers(value, name)


class _Seen:
    """An object, kept alive so that its identity is its own, and what it held."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.items: tuple[Any, ...] = ()
        if isinstance(value, (list, set, frozenset)) and not isinstance(value, nn.Module):
            self.items = tuple(value)
        elif isinstance(value, Mapping) and not isinstance(value, nn.Module):
            self.items = (*value.keys(), *value.values())

    def as_it_was(self) -> Any:
        """The object; a container of Python's holds again what it held."""
        if type(self.value) in (list, set):
            self.value.clear()
            (self.value.extend if isinstance(self.value, list) else self.value.update)(self.items)
        elif type(self.value) in (dict, OrderedDict):
            half = len(self.items) // 2
            pairs = dict(zip(self.items[:half], self.items[half:], strict=True))
            self.value.clear()
            self.value.update(pairs)
        return self.value

    def is_still(self, other: _Seen | None) -> bool:
        if other is None:
            return False
        if self.value is not other.value:
            plain = isinstance(self.value, (bool, int, float, complex, str, bytes, type(None)))
            return plain and type(self.value) is type(other.value) and self.value == other.value
        pairs = zip(self.items, other.items, strict=False)
        return len(self.items) == len(other.items) and all(a is b for a, b in pairs)


def _changed(before: Mapping[_Place, _Seen], after: Mapping[_Place, _Seen]) -> list[_Place]:
    places = dict.fromkeys((*before, *after))
    return [
        place
        for place in places
        if place not in before or not before[place].is_still(after.get(place))
    ]
