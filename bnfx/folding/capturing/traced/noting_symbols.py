"""What stands for an argument or a parameter in a trace, and notes what is asked of it."""

from __future__ import annotations

import dis
import operator
import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from torch import fx
from torch.overrides import TorchFunctionMode

from bnfx.folding.capturing.asking.modes import module_of
from bnfx.folding.modules.plain.library import is_library

_IN_PLACE = "iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift"
_OWN = frozenset(["node", "tracer", "root", "attr", "_node"])
_BETWEEN = ("torch.utils._pytree", "torch.nn.parameter")  # which ask for who called them


class Notes:
    """What was asked of the symbols of a trace, and those that are still there."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._made: list[weakref.ref[Symbol]] = []

    def made(self, symbol: Symbol) -> None:
        self._made.append(weakref.ref(symbol))

    def kept(self) -> bool:
        """Whether somebody keeps a symbol."""
        return any(each() is not None for each in self._made)


class Symbol(fx.Proxy):
    """A proxy that knows ``x *= 2`` for a write, where torch's own records ``x = x * 2``, and notes
    what it cannot answer: code may catch the error.
    """

    tracer: Any  # with notes

    @property
    def __class__(self) -> Any:  # of `isinstance`, which knows subclasses without
        frame = _asking(sys._getframe(1))
        if frame is not None:
            self.tracer.notes.asked.append(
                f"{frame.f_code.co_name} may decide by an argument: it asks for its class"
            )
        return type(self)

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise TypeError("the class of a symbol is not to be changed")

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return SymbolAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OWN:
            self._refuse(AttributeError, f"{name} of an argument is written")
        super().__setattr__(name, value)

    def __iter__(self) -> Iterator[Any]:
        count = _unpacked(sys._getframe(1))
        if count is None:
            return self.tracer.iter(self)  # type: ignore[no-any-return]
        self.tracer.unpacked(self, count)
        return iter([operator.getitem(self, place) for place in range(count)])

    def __hash__(self) -> int:
        self._refuse(TypeError, "an argument is looked up in a table")

    def __len__(self) -> int:
        self._refuse(RuntimeError, "the length of an argument is asked for")

    def __int__(self) -> int:
        self._refuse(TypeError, "an argument is made an int")

    def __float__(self) -> float:
        self._refuse(TypeError, "an argument is made a float")

    def __complex__(self) -> complex:
        self._refuse(TypeError, "an argument is made a complex number")

    def _refuse(self, kind: type[Exception], what: str) -> NoReturn:
        self.tracer.notes.asked.append(what)
        raise kind(what)


class SymbolAttribute(fx.proxy.Attribute, Symbol):
    """An attribute of a symbol, a method at most until it is used otherwise."""

    def __init__(self, root: fx.Proxy, name: str) -> None:
        super().__init__(root, name)
        self.tracer.notes.made(self)


_READING = frozenset(["__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__"])
_READING |= frozenset(["item", "tolist", "numpy", "data", "data_ptr", "equal", "allclose"])
_READING |= frozenset(["is_nonzero", "__dlpack__", "is_inference", "__contains__"])


class NotesReads(TorchFunctionMode):
    """Notes where code reads the numbers of a tensor, which a graph would hold for good."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__()
        self._asked = asked

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _READING and not any(issubclass(kind, fx.Proxy) for kind in types):
            self._asked.append(f"it reads the numbers of a tensor ({name})")
        return func(*args, **(kwargs or {}))


def _in_place(op: Callable[..., Any]) -> Callable[..., Any]:
    def write(self: Symbol, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", op, (self, other), {})

    return write


for _name in _IN_PLACE.split():
    setattr(Symbol, f"__{_name}__", _in_place(getattr(operator, _name)))


def _unpacked(frame: FrameType) -> int | None:
    """Of how many names code that runs there makes something, ``a, b = x``, if it does that."""
    at, code = frame.f_lasti, frame.f_code.co_code
    long = dis.opname[code[at - 2]] == "EXTENDED_ARG"
    return code[at + 1] if dis.opname[code[at]] == "UNPACK_SEQUENCE" and not long else None


def _asking(frame: FrameType | None) -> FrameType | None:
    """The code of users that asks, by itself or through Python's or what torch has for it."""
    while frame is not None:
        file, module = frame.f_code.co_filename, module_of(frame)
        torchs = module.partition(".")[0] in ("torch", "bnfx")
        if not is_library(file) or (torchs and module not in _BETWEEN):
            return None if torchs and is_library(file) else frame
        frame = frame.f_back
    return None
