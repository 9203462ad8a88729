"""Everything that a model can reach: the objects that it holds, and the code that they may run."""

from __future__ import annotations

import ast
import gc
import sys
import weakref
from dataclasses import dataclass, replace
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from bnfx.folding.capturing.asking.decisions import function_nodes
from bnfx.folding.modules.reading.dependence import runs_in_order
from bnfx.folding.modules.reading.functions.accessors import hides, is_accessor
from bnfx.folding.modules.reading.functions.class_attributes import held_by, held_in, unwrapped
from bnfx.folding.modules.reading.functions.library import (
    is_generated,
    is_known,
    is_library_function,
)
from bnfx.folding.modules.reading.functions.loose import loose
from bnfx.folding.modules.reading.functions.methods import (
    first_argument,
    home_of,
    names_its_object,
)
from bnfx.folding.modules.reading.functions.naming import imported, named
from bnfx.passes.fx.parameters.sources import memory

# 177 in timm's GerNet; with what loads it, a model of transformers has 2,849, HTTP and YAML among
# them: to read those takes a minute, and some always computes a name.
MOST_FUNCTIONS = 1000
_REGISTERS = ("_parameters", "_buffers", "_modules")
# Global objects of these run nothing of the user's: loggers, dtypes, patterns.
_TELLING = ("torch", "logging", "re", "pathlib", "warnings", "numpy")
_BY_CLASS = ("__new__", "__init_subclass__", "__class_getitem__")
_OF_DESCRIPTORS = ("__get__", "__set__", "__delete__")  # given the object that has the attribute
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
        self._places: dict[CodeType, list[int]] = {}  # in ``functions``
        self._attributes: list[Any] = []  # of classes, and of Python modules, yet to be walked
        self.held_kinds: set[type] = set()  # classes that objects hold, besides their own
        self._walk()
        for place in loose(self.functions, self.held_kinds):
            self._widen_at(place)

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
            if is_accessor(value):
                self.refusal = "the model's code holds what gets at layers by other names"
            for each in (*self._inside(value, tree), *self._attributes):
                if isinstance(each, nn.Module) and id(each) in tree:
                    self.held.add(id(each))
                else:
                    stack.append(each)
            self._attributes.clear()

    def _inside(self, value: Any, tree: set[int]) -> list[Any]:
        """What an object holds; its code is noted."""
        if isinstance(value, type):
            self.held_kinds.add(value)
            self._add_made(value)
            return []
        if isinstance(value, nn.Module) and id(value) in tree:
            self._add_kind(type(value))
            tensors = (*value._parameters.values(), *value._buffers.values())
            held = [each for t in tensors for each in getattr(t, "__dict__", {}).values()]
            return held + [v for k, v in vars(value).items() if k not in _REGISTERS]
        if isinstance(value, torch.Tensor):
            self.memory.add(memory(value))
            return list(getattr(value, "__dict__", {}).values())
        if isinstance(value, FunctionType):
            self.held_code.add(value.__code__)
            self._add_function(value, None)
            return held_by(value)
        if isinstance(value, MethodType) and isinstance(value.__func__, FunctionType):
            self.held_code.add(value.__func__.__code__)
            by_class = isinstance(value.__self__, type)
            kind = None if by_class else home_of(value)
            self._add_function(value.__func__, kind, by_class)
            return [value.__self__, *held_by(value.__func__)]
        if isinstance(value, weakref.ref):
            return [value()]
        self._add_made(type(value))
        elements = getattr(value, "tolist", None)  # NumPy's arrays say nothing to the collector
        if elements is not None and getattr(getattr(value, "dtype", None), "hasobject", False):
            return [elements()]
        return [each for each in gc.get_referents(value) if each is not type(value)]

    def _add_kind(self, kind: type) -> None:
        for base in kind.__mro__:
            if base in self._kinds or is_known(base):
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
                for function, given in unwrapped(value):
                    self.names.setdefault(function.__code__, set()).add(name)
                    if is_accessor(function) and function.__name__ != name:
                        self.refusal = f"{base.__name__}.{name} is {function.__name__} of torch"
                    by_class = isinstance(value, classmethod) or name in _BY_CLASS
                    static = by_class or isinstance(value, staticmethod)
                    owner = base if given else nn.Module  # it may be given any module
                    self._add_function(function, None if static else owner, by_class)

    def _add_made(self, kind: type) -> None:
        """A class of which the code may make further objects, and hand them what it likes."""
        self._add_kind(kind)
        for base in kind.__mro__:
            if base in self.made or is_known(base):
                continue
            self.made.add(base)
            for function, given in unwrapped(vars(base).get("__init__")):
                self._add_function(function, base if given else nn.Module)

    def _add_function(
        self, function: FunctionType, kind: type | None, by_class: bool = False
    ) -> None:
        code = function.__code__
        if code in self._places or is_library_function(function):
            self._widen(function, kind, by_class)
            return
        if runs_in_order(function) or self.refusal is not None:
            return
        if len(self.functions) >= MOST_FUNCTIONS:
            self.refusal = f"the model's code may run more than {MOST_FUNCTIONS} functions"
        self._places[code] = []
        nodes = function_nodes(code)
        method = kind is not None or by_class
        if not nodes and not (method and is_generated(function)):
            self.refusal = f"the source of {function.__qualname__} cannot be read"
        owner = first_argument(code) if kind is not None else ""
        if function.__name__ in _OF_DESCRIPTORS and code.co_argcount > 1:
            kind, owner = nn.Module, code.co_varnames[1]
        of_class = first_argument(code) if by_class else ""
        for node in nodes:
            if kind is not None and not names_its_object(function, node):
                self.refusal = f"{function.__qualname__} takes its object among others"
            self._places[code].append(len(self.functions))
            self.functions.append(
                Function(function.__qualname__, node, kind, owner, of_class, function)
            )
            self._follow(function, node)

    def _widen(self, function: FunctionType, kind: type | None, by_class: bool) -> None:
        """Of a function that several classes have, or that is called as none's: its first argument
        may be any module.
        """
        for place in self._places.get(function.__code__, ()):
            known = self.functions[place]
            if known.kind is not kind or bool(known.of_class) != by_class:
                self._widen_at(place)

    def _widen_at(self, place: int) -> None:
        known = self.functions[place]
        if known.function.__name__ not in _OF_DESCRIPTORS:
            owner = first_argument(known.function.__code__)
            self.functions[place] = replace(known, kind=nn.Module, owner=owner, of_class="")

    def _follow(self, function: FunctionType, node: Any) -> None:
        """What the code names: it may call functions and classes, and what objects hold."""
        try:
            imports = imported(function, node)
        except LookupError as missing:
            self.refusal = f"{function.__qualname__} imports {missing}, which is not loaded yet"
            return
        for each in ast.walk(node):
            if isinstance(each, (ast.Name, ast.Attribute)):
                for value in named(function, each, imports):
                    self._follow_to(each, value)

    def _follow_to(self, node: ast.AST, value: Any) -> None:
        if hides(node, value):
            self.refusal = "the model's code gets at layers, or at code, by other names"
        elif isinstance(value, FunctionType):
            for function, _ in unwrapped(value):
                self._add_function(function, None)
            self._attributes += [v for v in held_by(value) if not isinstance(v, FunctionType)]
        elif isinstance(value, type):
            self._add_made(value)
        elif _may_run(value):
            self._attributes.append(value)


def _may_run(value: Any) -> bool:
    """Whether an object of a Python module's may run code of the user's on a module."""
    kind = type(value)
    return kind.__module__.split(".")[0] not in _TELLING or isinstance(value, nn.Module)
