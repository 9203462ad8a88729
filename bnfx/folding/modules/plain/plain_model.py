"""Whether all code of a model is plain, and which modules it does more with than run them.

What plain code may be is listed, and little (:mod:`bnfx.folding.modules.plain.plain_function`):
``self`` stands in front of attributes only, so a module is got at by the names of attributes and in
no other way; it has no closures, exceptions that are caught, properties or hooks, and objects hold
data. What is not listed is not plain, in any method of any class, whoever calls it. A module
that plain code hands to anybody is exposed, and all below it: whoever gets it may do anything.
"""

from __future__ import annotations

import ast
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from bnfx.folding.modules.plain.data import (
    INTERNAL,
    held_objects,
    is_data,
    is_plain_tensor,
    made_of,
    without_tensors,
)
from bnfx.folding.modules.plain.library import UNREAD, is_bare, is_known, is_op, replaced
from bnfx.folding.modules.plain.module_uses import Use, use_of
from bnfx.folding.modules.plain.plain_function import PlainFunction
from bnfx.folding.modules.plain.source import Sources
from bnfx.folding.modules.tree import below, is_name, is_scripted, modules_of
from bnfx.passes.fx.calls.modules import has_hooks, is_patched

_RUN_BY_ALL = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OF_CLASSES = frozenset(
    [
        *("__module__", "__doc__", "__annotations__", "__qualname__", "__constants__"),
        *("__jit_unused_properties__", "__firstlineno__", "__static_attributes__"),
        *("__match_args__", "__slots__", "__parameters__", "__orig_bases__"),
        *("__annotate_func__", "__annotations_cache__"),
    ]
)
_FACTS = ("_version", "dump_patches")


@dataclass(frozen=True)
class Named:
    """A place where code names a module, and what it does with it."""

    function: PlainFunction
    node: Any
    use: Use

    def __str__(self) -> str:
        name = self.function.function.__qualname__
        what = ast.unparse(self.node)
        return f"{name}, line {self.node.lineno}, may run, read or change {what} by itself"


class PlainModel:
    """All code of a model. ``strange`` says what of it is not plain; ``None`` if all is."""

    def __init__(self, model: nn.Module) -> None:
        self._functions: dict[type, list[PlainFunction]] = {}
        self._made: set[type] = set()
        self._sources = Sources()
        self._seen: set[FunctionType] = set()
        self.exposed: dict[str, str] = {}  # path -> by what
        self.strange = next(self._strange_things(model), None)
        if self.strange is None:
            for path, module in modules_of(model):
                scripted = is_scripted(module)
                for name in () if scripted else module._modules:
                    if (why := self._exposes(module, name)) is not None:
                        self.exposed[below(path, name)] = why

    def why_exposed(self, path: str) -> str | None:
        """What may do anything with a module, or with one above it."""
        while path:
            if path in self.exposed:
                return self.exposed[path]
            path = path.rpartition(".")[0]
        return None

    def named(self, owner: nn.Module, name: str) -> list[Named]:
        """The places where code of its class names a module that it has."""
        module = owner._modules[name]
        found = []
        for function in self._functions.get(type(owner), ()):
            named = function.uses.get(name, ())
            uses = (Use.EXPOSED if module is None else use_of(function, n, module) for n in named)
            found += [Named(function, node, use) for node, use in zip(named, uses, strict=True)]
            found += [Named(function, node, Use.RUN) for node in function.loops]
        return found

    def has_code(self, module: nn.Module) -> bool:
        """Whether its class has methods that torch's do not have."""
        return bool(self._functions.get(type(module)))

    def sets_attributes(self, module: nn.Module) -> bool:
        """Whether code of its class sets an attribute of it, which may be a new part."""
        return any(function.sets for function in self._functions.get(type(module), ()))

    def _exposes(self, owner: nn.Module, name: str) -> str | None:
        if owner._modules[name] is None:
            return None
        for kind in type(owner).__mro__:
            if is_known(kind) and kind not in _RUN_BY_ALL and _mentions(kind, name):
                return f"{kind.__name__} of torch may run or read {name} by itself"
        return next((str(n) for n in self.named(owner, name) if n.use is Use.EXPOSED), None)

    def _strange_things(self, model: nn.Module) -> Iterator[str]:
        if (other := replaced()) is not None:
            yield other
        for path, module in modules_of(model):
            if is_scripted(module):
                continue
            where = path or type(module).__name__
            tables = (module._modules, module._parameters, module._buffers)
            if not all(type(table) in (dict, OrderedDict) for table in tables):
                yield f"{where} keeps what it has in a table of another kind"
            if module.__class__ is not type(module):
                yield f"{where} says that it is of another class"
            if has_hooks(module) or is_patched(module):
                yield f"{where} has hooks or a forward of its own"
            if any(hasattr(nn.Module, name) for name in vars(module).keys() - INTERNAL):
                yield f"{where} has an attribute in place of one of torch's"
            for name, value in held_objects(module):
                yield from self._strange_object(value, f"{where} holds an object, {name}")
            owned = (*module._parameters.values(), *module._buffers.values())
            if not all(t is None or is_plain_tensor(t) for t in owned):
                yield f"a tensor of {where} is of another class, or has attributes"
            if not all(map(is_name, module._modules)):
                yield f"{where} has a module whose name is no name"
            yield from self._strange_class(type(module))

    def _strange_object(self, value: Any, told: str) -> Iterator[str]:
        made = made_of(value)
        if made.__class__ is not type(made):  # which isinstance would believe
            yield told
            return
        if is_op(made):
            return
        if type(made) is FunctionType:
            yield from self._strange_function(made)
        elif isinstance(made, type) and issubclass(made, nn.Module):
            yield from self._strange_made(made)
        elif not is_data(without_tensors(made)):
            yield told

    def _strange_class(self, of: type) -> Iterator[str]:
        if of in self._functions:
            return
        self._functions[of] = []
        for kind in of.__mro__:
            if is_known(kind) or _is_torchs_making(kind):
                continue
            if type(kind) is not type:
                yield f"{kind.__name__} has a metaclass"
            for name, value in vars(kind).items():
                if name in _OF_CLASSES or name in UNREAD:
                    continue
                special = name.startswith("__")
                torchs = hasattr(nn.Module, name) and name not in ("forward", *_FACTS)
                if is_data(value) and not special and not torchs:
                    continue
                function = value.__func__ if type(value) is staticmethod else value
                if special or torchs or type(function) is not FunctionType:
                    yield f"{kind.__name__}.{name} is no plain method"
                    continue
                method = None if type(value) is staticmethod else of
                reading = PlainFunction(function, self._sources, method, method and kind)
                self._functions[of].append(reading)
                yield from self._strange_in(reading)

    def _strange_made(self, of: type) -> Iterator[str]:
        """Of a class of which code makes further modules."""
        yield from self._strange_class(of)
        if of in self._made:
            return
        self._made.add(of)
        for kind in of.__mro__:
            for name in () if is_known(kind) else UNREAD & vars(kind).keys():
                making = vars(kind)[name]
                if type(making) is not FunctionType:
                    yield f"{kind.__name__}.{name} is no plain method"
                else:
                    yield from self._strange_in(PlainFunction(making, self._sources, of, kind))

    def _strange_in(self, reading: PlainFunction) -> Iterator[str]:
        if reading.strange is not None:
            yield reading.strange
        for function in reading.calls:
            yield from self._strange_function(function)
        for kind in reading.makes:
            yield from self._strange_made(kind)

    def _strange_function(self, function: FunctionType) -> Iterator[str]:
        if function not in self._seen:
            self._seen.add(function)
            if not is_bare(function):
                yield f"{function.__qualname__} has attributes"
            yield from self._strange_in(PlainFunction(function, self._sources))


def _is_torchs_making(kind: type) -> bool:
    """Whether it is what ``torch.nn.utils.parametrize`` puts in front of a class."""
    made = [getattr(value, "fget", value) for value in vars(kind).values() if not is_data(value)]
    files = {f.__code__.co_filename if type(f) is FunctionType else None for f in made}
    return files == {parametrize.__file__}


def _mentions(kind: type, name: str) -> bool:
    codes = [each.__code__ for each in vars(kind).values() if type(each) is FunctionType]
    return any(name in code.co_names for code in codes)
