"""Which module's result goes to which other, always and nowhere else: by structure and source.

Two modules follow one another if (a) they are neighbours in an ``nn.Sequential`` that is only run
whole, or (b) each place in the code that names one of them calls it, and it is ``b(a(x))``, or
``y = a(x)`` and ``b(y)`` in one block with nothing about ``y`` between and nobody else to read it.
Nothing else in the model's code may name either, and nothing that the model holds may hold either.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import nn

from bnfx.folding.modules.containers import has_no_forward, is_sequential
from bnfx.folding.modules.reading.functions.library import is_known
from bnfx.folding.modules.reading.hooks import hooks_of, ignores_module
from bnfx.folding.modules.reading.mentions import Mentions
from bnfx.folding.modules.reading.owners import Mention
from bnfx.folding.modules.reading.reachable import Reachable
from bnfx.folding.modules.reading.straight_line import argument_of
from bnfx.passes.fx.calls.modules import has_hooks
from bnfx.passes.fx.parameters.sources import memory


@dataclass(frozen=True)
class Pair:
    """Two attributes of a module, by the paths of the modules that they lead to."""

    first: str
    second: str


class Succession:
    """The proofs about one model.

    Args:
        model: a deep copy in evaluation.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._reachable = Reachable(model)
        self._paths = dict(model.named_modules())
        places = model.named_modules(remove_duplicate=False)
        self._homes = Counter(id(module) for _, module in places)
        self._owned: Counter[object] = Counter()
        for module in set(model.modules()):
            tensors = (*module._parameters.values(), *module._buffers.values())
            self._owned.update(memory(t) for t in tensors if t is not None)
        self._above: dict[str, str | None] = {}
        self.refused: dict[str, str] = {}

    @functools.cached_property
    def _mentions(self) -> Mentions:
        return Mentions(self._reachable)

    def pairs(self) -> list[Pair]:
        """All pairs of modules that are proved to follow one another; reasons for others are kept
        in ``refused``, by the path of the second.
        """
        found: list[Pair] = []
        if self._reachable.refusal is not None:
            self.refused = dict.fromkeys(self._paths, self._reachable.refusal)
            return []
        for path, module in self._paths.items():
            if isinstance(module, torch.jit.ScriptModule):
                self.refused[path] = f"{path} is TorchScript, whose layers cannot be changed"
                continue
            if is_sequential(module):
                candidates = self._neighbours(path, module)
            else:
                candidates = self._called_in_turn(path, module)
            for pair, why in candidates:
                ends = (self._end(pair.first, -1), self._end(pair.second, 0))
                if any(isinstance(end, tuple) for end in ends):
                    continue
                why = why or next((w for w in map(self.refuse, ends) if w), None)
                if why is None:
                    found.append(Pair(*ends))
                else:
                    self.refused[ends[1]] = why
        return found

    def refuse(self, path: str) -> str | None:
        """Why a module cannot be rewritten where it stands, whoever runs it."""
        module = self._paths.get(path)
        if module is None or self._homes[id(module)] > 1:
            return f"{path} is registered in several places"
        if self._reachable.refusal is not None:
            return self._reachable.refusal
        if not _is_reached(self._model, path, module):
            return f"{path} is hidden behind another attribute of that name"
        if isinstance(module, torch.jit.ScriptModule):
            return f"{path} is TorchScript, whose layers cannot be changed"
        if has_hooks(module):
            return f"{path} has hooks"
        if (why := self._handed_on(path)) is not None:
            return why
        if (base := self._torch_class_that_names(path)) is not None:
            return f"{base.__name__} of torch may run or read {path} by itself"
        if type(module).__call__ is not nn.Module.__call__ or "forward" in vars(module):
            return f"{path} replaces its own forward"
        parts = list(module.modules())
        if any(id(part) in self._reachable.held for part in parts):
            return f"{path} is held outside the tree of modules too"
        for part in parts:
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is None:
                    continue
                if memory(tensor) in self._reachable.memory or self._owned[memory(tensor)] > 1:
                    return f"the weights of {path} are held elsewhere too"
        return None

    def _handed_on(self, path: str) -> str | None:
        """Where a module above this one is handed to code that may do anything with it."""
        above = path.rpartition(".")[0]
        while above:
            if above not in self._above:
                owner, _, name = above.rpartition(".")
                mention = self._mentions.handed_on(self._paths[owner], name)
                self._above[above] = None if mention is None else _told(mention, name)
            if (why := self._above[above]) is not None:
                return why
            above = above.rpartition(".")[0]
        return None

    def _torch_class_that_names(self, path: str) -> type | None:
        """A class of torch's that the owner of a module extends, and whose code names the module:
        that code is not read.
        """
        owner, _, name = path.rpartition(".")
        above = self._paths.get(owner)
        return next((k for k in type(above).__mro__ if is_known(k) and _names(k, name)), None)

    def _end(self, path: str, place: int) -> str:
        """The last, or first, module of what is run there: down through containers."""
        module = self._paths[path]
        while (
            is_sequential(module)
            and len(module._modules)
            and not has_hooks(module)
            and self._opened(path) is None
        ):
            path = f"{path}.{list(module._modules)[place]}".lstrip(".")
            module = self._paths.get(path, module)
            if path not in self._paths:
                break
        return path

    def _neighbours(self, path: str, module: nn.Module) -> Iterator[tuple[Pair, str | None]]:
        why = self._opened(path)
        names = [f"{path}.{name}".lstrip(".") for name in module._modules]
        for first, second in itertools.pairwise(names):
            if first in self._paths and second in self._paths:
                yield Pair(first, second), why

    def _opened(self, path: str) -> str | None:
        """Why a container may be run in part."""
        module = self._paths[path]
        if id(module) in self._reachable.held or self._homes[id(module)] > 1:
            return f"{path or 'the model'} is held in several places"
        if not all(map(ignores_module, hooks_of(module))):
            return f"{path or 'the model'} has a hook, which may run its layers"
        for name in module._modules:
            if (strange := next(iter(self._mentions.of(module, name)), None)) is not None:
                return _told(strange, name)
        if not path:
            return None
        depth, name = 0, path.rpartition(".")[2]
        owner_path = path.rpartition(".")[0]
        owner = self._paths.get(owner_path)
        while owner is not None and owner_path and has_no_forward(owner):
            # A list has no forward of its own: what its owner does with its elements counts.
            if isinstance(owner, nn.Sequential):
                break
            others = self._mentions.of(owner, name)
            if others:
                return _told(others[0], name)
            depth, name = depth + 1, owner_path.rpartition(".")[2]
            owner_path = owner_path.rpartition(".")[0]
            owner = self._paths.get(owner_path)
        if owner is None:
            return f"{path} is held in several places"
        if is_sequential(owner):
            return self._opened(owner_path)
        for mention in self._mentions.of(owner, name):
            if not self._mentions.runs_whole(mention.node, depth):
                return _told(mention, name)
        return None

    def _called_in_turn(self, path: str, module: nn.Module) -> Iterator[tuple[Pair, str | None]]:
        """Pairs of attributes, found at the calls of the second."""
        for name in list(module._modules):
            second = f"{path}.{name}".lstrip(".")
            mentions = list(self._mentions.of(module, name))
            if second not in self._paths:
                continue
            live = [m for m in mentions if not self._mentions.is_harmless(m.node)]
            before = [argument_of(self._mentions, m) for m in live]
            names = {_name_of(node) for node in before if node is not None}
            if len(names) != 1 or (first := names.pop()) not in module._modules:
                continue
            pair = Pair(f"{path}.{first}".lstrip("."), second)
            if pair.first not in self._paths:
                continue
            strange = next((m for m, b in zip(live, before, strict=True) if b is None), None)
            if strange is not None:
                yield pair, _told(strange, name)
                continue
            taken = {id(node) for node in before}
            others = [
                m
                for m in self._mentions.of(module, first)
                if id(m.node) not in taken and not self._mentions.is_harmless(m.node)
            ]
            yield pair, _told(others[0], first) if others else None


def _is_reached(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Whether code gets the module by its path: a class may have an attribute of the same name."""
    try:
        return model.get_submodule(path) is module
    except AttributeError:
        return False


def _names(kind: type, name: str) -> bool:
    codes = [each.__code__ for each in vars(kind).values() if isinstance(each, FunctionType)]
    return any(name in code.co_names for code in codes)


def _told(mention: Mention, name: str) -> str:
    line = getattr(mention.node, "lineno", 0)
    return f"{mention.function.name}, line {line}, may run, read or change {name} by itself"


def _name_of(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ""
