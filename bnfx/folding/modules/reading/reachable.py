"""Everything that a model can reach: the objects that it holds, and the code that they may run."""

from __future__ import annotations

import ast
import gc
import inspect
import sys
import weakref
from dataclasses import dataclass, replace
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from bnfx.folding.capturing.asking.decisions import function_nodes
from bnfx.folding.modules.reading.class_attributes import EMPTY_CELL, held_in, unwrapped
from bnfx.folding.modules.reading.dependence import runs_in_order
from bnfx.passes.fx.parameters.sources import memory

# 177 in timm's GerNet; with what loads it, a model of transformers has 2,849, HTTP and YAML among
# them: to read those takes a minute, and some always computes a name.
MOST_FUNCTIONS = 1000
_REGISTERS = ("_parameters", "_buffers", "_modules")
_BY_CLASS = ("__new__", "__init_subclass__", "__class_getitem__")
_OF_CLASSES = ("__dict__", "__weakref__", "__abstractmethods__", "_abc_impl", "__annotations__")


@dataclass(frozen=True, eq=False)
class Function:
    """A function whose source was read.

    Args:
        name: for messages.
        node: its source.
        kind: the class whose method it is.
        owner: the name of its first parameter, if that is an object.
        of_class: the name of its first parameter, if that is a class.
        function: itself, for what its names mean.
    """

    name: str
    node: Any
    kind: type | None
    owner: str
    of_class: str
    function: FunctionType


class Reachable:
    """What a model holds outside its tree of modules, and all code that may run.

    Args:
        model: a deep copy, so that nobody else holds its parts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.refusal: str | None = None  # why not all of the code was read
        self.functions: list[Function] = []
        self.names: dict[CodeType, set[str]] = {}  # by which classes have them
        self.held_code: set[CodeType] = set()  # of functions that objects hold
        self.held: set[int] = set()  # ids of modules, and memory of tensors
        self.memory: set[Any] = set()
        self._kinds: set[type] = set()
        self.made: set[type] = set()  # classes of which code may make further objects
        self._seen_code: dict[CodeType, set[type | None]] = {}  # and whose methods it is
        self._attributes: list[Any] = []  # of classes, yet to be walked
        self._walk()

    def _walk(self) -> None:
        tree = {id(module) for module in self.model.modules()}
        seen: set[int] = set()
        stack: list[Any] = list(self.model.modules())
        keep: list[Any] = []  # else ids could be used again
        while stack:
            value = stack.pop()
            if id(value) in seen or isinstance(
                value, (ModuleType, CodeType, str, bytes, int, float)
            ):
                continue
            seen.add(id(value))
            keep.append(value)
            if isinstance(value, type):
                self._add_made(value)
                stack += self._attributes
                self._attributes.clear()
                continue
            if isinstance(value, nn.Module) and id(value) in tree:
                self._add_kind(type(value))
                inside = [v for k, v in vars(value).items() if k not in _REGISTERS]
            elif isinstance(value, torch.Tensor):
                self.memory.add(memory(value))
                inside = list(getattr(value, "__dict__", {}).values())
            elif isinstance(value, FunctionType):
                self.held_code.add(value.__code__)
                self._add_function(value, None)
                cells = [c.cell_contents for c in value.__closure__ or () if c != EMPTY_CELL]
                inside = [
                    *cells,
                    *(value.__defaults__ or ()),
                    *(value.__kwdefaults__ or {}).values(),
                ]
                inside += list(vars(value).values())
            elif isinstance(value, weakref.ref):
                inside = [value()]
            else:
                self._add_kind(type(value))
                inside = gc.get_referents(value)
            inside += self._attributes
            self._attributes.clear()
            for each in inside:
                if isinstance(each, nn.Module) and id(each) in tree:
                    self.held.add(id(each))
                else:
                    stack.append(each)
        self.functions = [self._of_all(function) for function in self.functions]

    def _add_kind(self, kind: type) -> None:
        for base in kind.__mro__:
            if base in self._kinds or _is_known(base):
                continue
            self._kinds.add(base)
            self._add_kind(type(base))  # its methods are given the class, and may be given a module
            if not issubclass(base, nn.Module) and base.__module__ in sys.stdlib_module_names:
                continue
            for name, value in list(vars(base).items()):
                if name == "__init__":
                    continue  # of what is there it has run, and what it kept is seen
                if name not in _OF_CLASSES:
                    self._attributes += held_in(value)
                for function in unwrapped(value):
                    self.names.setdefault(function.__code__, set()).add(name)
                    by_class = isinstance(value, classmethod) or name in _BY_CLASS
                    static = by_class or isinstance(value, staticmethod)
                    self._add_function(function, None if static else base, by_class)

    def _add_made(self, kind: type) -> None:
        """A class of which the code may make further objects, and hand them what it likes."""
        self._add_kind(kind)
        for base in kind.__mro__:
            if base in self.made or _is_known(base):
                continue
            self.made.add(base)
            for function in unwrapped(vars(base).get("__init__")):
                self._add_function(function, base)

    def _add_function(
        self, function: FunctionType, kind: type | None, by_class: bool = False
    ) -> None:
        if runs_in_order(function) or _is_library(function.__module__):
            return
        kinds = self._seen_code.setdefault(function.__code__, set())
        seen = bool(kinds)
        kinds.add(kind)
        if seen or self.refusal is not None:
            return
        if len(self.functions) >= MOST_FUNCTIONS:
            self.refusal = f"the model's code may run more than {MOST_FUNCTIONS} functions"
        nodes = function_nodes(function.__code__)
        if not nodes:
            if not _is_generated(function):
                self.refusal = f"the source of {function.__qualname__} cannot be read"
            return
        first = _first_argument(function)
        owner, of_class = first if kind is not None else "", first if by_class else ""
        for node in nodes:
            self.functions.append(
                Function(function.__qualname__, node, kind, owner, of_class, function)
            )
            self._follow(function, node)

    def _of_all(self, function: Function) -> Function:
        """It, or what it is if it is a function of several classes, or also called by its class:
        a method of any module.
        """
        if len(self._seen_code[function.function.__code__]) == 1:
            return function
        first = _first_argument(function.function)
        return replace(function, kind=nn.Module, owner=first, of_class="")

    def _follow(self, function: FunctionType, node: Any) -> None:
        """Functions and classes that the code names: it may call them."""
        for each in ast.walk(node):
            if isinstance(each, (ast.Name, ast.Attribute)):
                value = resolve_global(function, each)
                if isinstance(value, FunctionType):
                    for each_function in unwrapped(value):
                        self._add_function(each_function, None)
                elif isinstance(value, type):
                    self._add_made(value)


def _first_argument(function: FunctionType) -> str:
    code = function.__code__
    return code.co_varnames[0] if code.co_argcount else ""


def resolve_global(function: FunctionType, node: ast.AST) -> Any:
    """What a name of the module, or of one that it imports, stands for."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or is_bound(function, node.id):
        return None
    value = function.__globals__.get(node.id)
    for name in reversed(names):
        if not isinstance(value, (ModuleType, type)):
            return None
        value = inspect.getattr_static(value, name, None)
    return value


def is_bound(function: FunctionType, name: str) -> bool:
    """Whether a name is one of the function's own, or of a function around it."""
    code = function.__code__
    return name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars)


def _is_library(name: str | None) -> bool:
    """Torch's own code, and Python's, which name no part of a model."""
    top = (name or "").split(".")[0]
    return top in ("torch", "bnfx", "builtins") or top in sys.stdlib_module_names - {"__main__"}


def _is_known(kind: type) -> bool:
    return _is_library(kind.__module__) and kind.__module__ != "__main__"


_GENERATED = frozenset(["__init__", "__repr__", "__eq__", "__hash__", "__setattr__"])
_GENERATED |= frozenset(["__lt__", "__le__", "__gt__", "__ge__"])
_GENERATED |= frozenset(
    ["__delattr__", "__new__", "__getnewargs__", "__getstate__", "__setstate__"]
)
_GENERATED |= frozenset(["_make", "_replace", "_asdict", "__replace__"])


def _is_generated(function: FunctionType) -> bool:
    """Of a dataclass or a named tuple: it has no source, and names nothing."""
    return function.__code__.co_filename.startswith("<") and function.__name__ in _GENERATED
