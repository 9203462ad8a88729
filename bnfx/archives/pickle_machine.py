"""A machine for the part of pickle that tensors are saved with; it calls nothing a file names.

The opcodes below are all there are. A global is a name of a table; ``REDUCE`` calls what the table
has for it, which builds a value from checked arguments.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bnfx.archives.refused import RefusedError, shown

_MARK = object()
_PUSHED = frozenset(  # opcodes whose argument is their value
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "LONG4",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BINSTRING",
        "SHORT_BINSTRING",
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = frozenset(("PROTO", "FRAME", "MARK"))
_STEPS = 1_000_000  # each may push a value of some hundred bytes


@dataclass(frozen=True)
class Global:
    """A name that a pickle may use, and what it is here."""

    build: Callable[..., Any]


def run_pickle(file: Any, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> Any:
    """The value of one pickle, from where ``file`` stands.

    Args:
        known: ``"module name"`` -> a value, or a :class:`Global` to be called.
        persistent: the value of a persistent identifier.

    Raises:
        RefusedError: for an opcode, or a name, that is not known, and for what is not a pickle.
    """
    machine = _Machine(known, persistent)
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if steps > _STEPS:
                raise RefusedError("its pickle is too long")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except RefusedError:
        raise
    except (
        *(ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError),
        *(RuntimeError, pickle.UnpicklingError, MemoryError, EOFError),
    ):
        pass
    raise RefusedError("it is not a pickle of tensors, or is cut off")


class _Machine:
    def __init__(self, known: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError
        return value

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def step(self, name: str, argument: Any) -> None:
        push = self._stack.append
        if name == "MARK":
            push(_MARK)
        elif name in _IGNORED:
            pass
        elif name in _PUSHED:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self._memo[argument])
        elif name == "GLOBAL":
            push(self._global(argument))
        elif name == "STACK_GLOBAL":
            what, module = self.pop(), self.pop()
            if not isinstance(what, str) or not isinstance(module, str):
                raise ValueError
            push(self._global(f"{module} {what}"))
        elif (step := getattr(self, f"_{name.lower()}", None)) is not None:
            step()
        else:
            raise RefusedError(f"its pickle has {name}, which tensors are not saved with")

    def _global(self, name: str) -> Any:
        if name not in self._known:
            raise RefusedError(
                f"it holds pickled code, which is not run ({shown(name.replace(' ', '.'))})"
            )
        return self._known[name]

    def _reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise RefusedError(f"its pickle calls {shown(function)}")
        self._stack.append(function.build(*arguments))

    def _build(self) -> None:
        """Attributes of a dictionary, as the versions of a state dict's modules: left out."""
        self.pop()
        if not isinstance(self._stack[-1], dict):
            raise RefusedError("its pickle gives attributes to what has none")

    def _binpersid(self) -> None:
        if self._persistent is None:
            raise RefusedError("its pickle names something outside of it")
        self._stack.append(self._persistent(self.pop()))

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _empty_list(self) -> None:
        self._stack.append([])

    def _empty_set(self) -> None:
        self._stack.append(set())

    def _tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _list(self) -> None:
        self._stack.append(self._since_mark())

    def _tuple1(self) -> None:
        self._stack.append((self.pop(),))

    def _tuple2(self) -> None:
        second, first = self.pop(), self.pop()
        self._stack.append((first, second))

    def _tuple3(self) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self._stack.append((first, second, third))

    def _append(self) -> None:
        value = self.pop()
        self._top(list).append(value)

    def _appends(self) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def _additems(self) -> None:
        values = self._since_mark()
        self._top(set).update(map(_key, values))

    def _setitem(self) -> None:
        value, key = self.pop(), self.pop()
        self._top(dict)[_key(key)] = value

    def _setitems(self) -> None:
        values = self._since_mark()
        self._top(dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError
        return self._stack[-1]


def _key(value: Any) -> Any:
    """A plain value, or a tuple of them: hashing nested tuples can take forever."""
    items = value if type(value) is tuple else (value,)
    if any(type(item) in (tuple, set, list, dict) for item in items):
        raise RefusedError(f"its pickle has the key {shown(value)}")
    return value
