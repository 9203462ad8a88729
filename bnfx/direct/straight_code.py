"""What the code that Dynamo wrote calls its graph with, and what it makes of the outputs.

That code loads the inputs of the graph, calls it, and builds what the function returns. It is run
here once on symbols instead of values. Only instructions that have no effect but on the stack and
on local variables are known; so whatever else the code does (resume after a graph break, assign to
attributes, build objects) ends in :class:`NotDirectError`.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch import nn

from bnfx.direct.jumps import asks_the_profiler, compare, goes_on_at, is_a_jump
from bnfx.direct.stack_moves import move
from bnfx.direct.symbols import Constant, Given, Output, Own, Size
from bnfx.direct.watched import NotDirectError, Watched, own_attribute


class _Mark:
    """A word of its own."""


_NULL, _NOTHING = _Mark(), _Mark()


@dataclass(frozen=True)
class Straight:
    """What the code does.

    Args:
        call: the compiled graph.
        arguments: each a :class:`Given`, :class:`Own`, :class:`Constant` or :class:`Size`.
        returned: a symbol, or a list, tuple or dict of some.
    """

    call: Callable[..., Any]
    arguments: Sequence[Any]
    returned: Any


@dataclass
class _Reader:
    code: CodeType
    names: Mapping[str, Any]
    fixed: Mapping[str, Any]
    model: nn.Module
    watched: Watched
    stack: list[Any] = field(default_factory=list)
    local: dict[str, Any] = field(default_factory=dict)
    call: tuple[Callable[..., Any], list[Any]] | None = None

    def read(self) -> Straight:
        for name in (*self.code.co_varnames, *self.code.co_freevars):
            if name in self.fixed:
                given = Given(name)
                own = self.fixed[name] is self.model
                self.local[name] = Own(self.model, given) if own else given
        resumed = 0
        for each in dis.get_instructions(self.code):
            if each.offset < resumed:
                continue
            if is_a_jump(each):
                resumed = goes_on_at(each, self.stack)
                continue
            if each.opname == "RETURN_VALUE" or each.opname == "RETURN_CONST":
                constant = each.opname == "RETURN_CONST"
                returned = Constant(each.argval) if constant else self.stack.pop()
                if self.call is None:
                    raise NotDirectError("it calls no graph")
                return Straight(*self.call, _checked(returned))
            self.step(each)
        raise NotDirectError("its code does not return")

    def step(self, each: dis.Instruction) -> None:
        name, arg, stack = each.opname, each.arg or 0, self.stack
        if name in _IGNORED or move(each, stack):
            return
        if name in ("LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK", "LOAD_DEREF"):
            stack.append(self.local.get(each.argval, Given(each.argval)))
        elif name == "STORE_FAST":
            self.local[each.argval] = stack.pop()
        elif name == "DELETE_FAST":
            self.local[each.argval] = _NOTHING
        elif name in ("LOAD_CONST", "LOAD_SMALL_INT"):
            stack.append(Constant(each.argval))
        elif name == "LOAD_GLOBAL":
            given = Given(each.argval, (), self.names)
            stack += [_NULL, given] if arg & 1 and sys.version_info >= (3, 11) else [given]
        elif name == "PUSH_NULL":
            stack.append(_NULL)
        elif name == "LOAD_ATTR" and not (arg & 1 and sys.version_info >= (3, 12)):  # a method
            stack.append(self.attribute(stack.pop(), each.argval))
        elif name == "BINARY_SUBSCR" or (name == "BINARY_OP" and each.argrepr == "[]"):
            key = stack.pop()
            stack.append(self.item(stack.pop(), key))
        elif name == "IS_OP":
            compare(each, stack)
        elif name in ("BUILD_LIST", "BUILD_TUPLE"):
            items = stack[len(stack) - arg :]
            del stack[len(stack) - arg :]
            stack.append(items if name == "BUILD_LIST" else tuple(items))
        elif name == "BUILD_MAP":
            pairs = stack[len(stack) - 2 * arg :]
            del stack[len(stack) - 2 * arg :]
            stack.append(dict(zip(map(_key, pairs[::2]), pairs[1::2], strict=True)))
        elif name == "LIST_EXTEND":
            more = stack.pop()
            if not isinstance(more, list | tuple):
                raise NotDirectError("it extends a list by what is not known")
            stack[-arg].extend(more)
        elif name == "UNPACK_SEQUENCE":
            stack += [self.item(stack[-1], Constant(at)) for at in reversed(range(arg))]
            del stack[len(stack) - arg - 1]
        elif name == "CALL":
            self.called(arg)
        elif name == "CALL_FUNCTION":  # Python 3.10, which has no NULL beside the function
            stack.insert(len(stack) - arg, _NULL)
            self.called(arg)
        else:
            raise NotDirectError(f"its code has {name}")

    def attribute(self, value: Any, name: str) -> Any:
        if asks_the_profiler(value, name):
            return Constant(False)
        if isinstance(value, Own):
            if isinstance(value.value, nn.Module):
                try:
                    found = own_attribute(value.value, name)
                except NotDirectError:
                    return value.path.then(False, name)
                self.watched.add(value.value)
                return Own(found, value.path.then(False, name))
            value = value.path
        if isinstance(value, Given):
            return value.then(False, name)
        raise NotDirectError(f"it reads {name} of what is not known")

    def item(self, value: Any, key: Any) -> Any:
        key = _key(key)
        if isinstance(value, Own):
            if type(value.value) in (dict, tuple):
                self.watched.add(value.value)
                return Own(value.value[key], value.path.then(True, key))
            value = value.path
        if isinstance(value, Given):
            return value.then(True, key)
        if isinstance(value, Output) and value.at is None and type(key) is int:
            return Output(key)
        if isinstance(value, list | tuple) and type(key) is int and -len(value) <= key < len(value):
            return value[key]
        raise NotDirectError("it reads an item of what is not known")

    def called(self, count: int) -> None:
        arguments = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        pair = [self.stack.pop(), self.stack.pop()]
        functions = [each for each in pair if each is not _NULL]
        given = functions[0] if len(functions) == 1 else None
        if not isinstance(given, Given) or given.names is None:
            raise NotDirectError("it calls what is not known")
        function = given.of({})
        if any(function is each for each in _markers()):
            self.stack.append(_NOTHING)
        elif any(function is each for each in _readers()):
            if not all(isinstance(each, Given | Own | Constant) for each in arguments):
                raise NotDirectError("it reads the size of what is not known")
            self.stack.append(Size(function, tuple(arguments)))
        elif self.call is None and given.name.startswith("__compiled_fn") and not given.steps:
            for each in arguments:
                if not isinstance(each, Given | Own | Constant | Size):
                    raise NotDirectError("its graph takes what is not known")
            self.call = function, arguments
            self.stack.append(Output(None))
        else:
            raise NotDirectError(f"it calls {given.shown} beside its graph")


_IGNORED = frozenset(
    {"RESUME", "CACHE", "NOP", "PRECALL", "COPY_FREE_VARS", "EXTENDED_ARG", "TO_BOOL", "NOT_TAKEN"}
)


def _markers() -> list[Any]:
    """What Dynamo calls around the loading of inputs, for the profiler alone."""
    names = ("record_pregraph_bytecode_enter", "record_pregraph_bytecode_exit")
    found = [getattr(torch._dynamo.utils, name, None) for name in names]
    return [each for each in found if each is not None]


def _readers() -> list[Any]:
    """What Dynamo calls for sizes and numbers that are open. They read, and do nothing else."""
    names = ("call_size", "call_stride", "call_storage_offset")
    found = [getattr(torch._dynamo.utils, name, None) for name in names]
    return [each for each in (*found, getattr(torch, "_as_tensor_fullprec", None)) if each]


def _key(symbol: Any) -> Any:
    if not isinstance(symbol, Constant) or type(symbol.value) not in (int, str):
        raise NotDirectError("a key is not known")
    return symbol.value


def _checked(symbol: Any, seen: dict[int, Any] | None = None) -> Any:
    """A returned symbol, if everything in it is known."""
    seen = {} if seen is None else seen
    if isinstance(symbol, list | tuple | dict):
        if id(symbol) in seen:
            raise NotDirectError("a list, tuple or dict stands twice in what it returns")
        seen[id(symbol)] = symbol
        for each in symbol.values() if isinstance(symbol, dict) else symbol:
            _checked(each, seen)
    elif not isinstance(symbol, Given | Own | Output | Constant | Size):
        raise NotDirectError("it returns what is not known")
    return symbol


def read_code(
    code: CodeType,
    names: Mapping[str, Any],
    fixed: Mapping[str, Any],
    model: nn.Module,
    watched: Watched,
) -> Straight:
    """What this code does.

    Args:
        code: that Dynamo wrote.
        names: its global variables.
        fixed: locals and free variables that are the same in all calls.
        model: the one of them that paths may begin at.
        watched: is given what is on those paths.

    Raises:
        NotDirectError: if it does more than to call a graph.
    """
    return _Reader(code, names, fixed, model, watched).read()
