"""Which module's result goes to which other, always and nowhere else: by structure and source.

All code of the model must be plain (:mod:`bnfx.folding.modules.plain.plain_model`). Then two
modules follow one another if (a) they are neighbours in an ``nn.Sequential`` that is only run
whole, or (b) each place that names one of them calls it, and it is ``b(a(x))``, or ``y = a(x)`` and
``b(y)`` in one block with nothing about ``y`` between and nobody else to read it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from bnfx.folding.modules.containers import is_sequential
from bnfx.folding.modules.plain.data import held_objects, held_tensors
from bnfx.folding.modules.plain.library import is_known
from bnfx.folding.modules.plain.module_uses import Use
from bnfx.folding.modules.plain.plain_model import PlainModel
from bnfx.folding.modules.plain.straight_line import argument_of
from bnfx.folding.modules.tree import below, is_scripted, modules_of
from bnfx.passes.fx.calls.modules import BEHAVIOUR, has_hooks, is_patched
from bnfx.passes.fx.parameters.sources import memory

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Pair:
    """Two attributes of a module, by the paths of the modules that they lead to."""

    first: str
    second: str


class Places:
    """Where modules stand, and which can be rewritten there if somebody vouches for the calls.

    Args:
        model: a deep copy in evaluation.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.paths = dict(modules_of(model))
        self._named = Counter(path for path, _ in modules_of(model))
        self._homes = Counter(id(module) for _, module in modules_of(model, shared=True))
        self._owned: Counter[object] = Counter()
        for module in self.paths.values():
            tensors = [*module._parameters.values(), *module._buffers.values()]
            if not is_scripted(module):
                tensors += [t for _, v in held_objects(module) for t in held_tensors(v)]
            self._owned.update(memory(t) for t in tensors if t is not None)

    def is_shared(self, path: str) -> bool:
        """Whether it stands in several places."""
        return self._homes[id(self.paths.get(path))] != 1

    def refuse(self, path: str) -> str | None:
        """Why a module cannot be rewritten where it stands, whoever runs it."""
        module = self.paths.get(path)
        if module is None or self.is_shared(path):
            return f"{path} is registered in several places"
        if self._named[path] > 1:  # a name with a dot reads like a path
            return f"{path} stands for several modules"
        if not self._is_reached(path, module):
            return f"{path} is hidden behind another attribute of that name"
        if is_scripted(module):
            return f"{path} is TorchScript, whose layers cannot be changed"
        if has_hooks(module):
            return f"{path} has hooks"
        if type(module).__call__ is not nn.Module.__call__ or is_patched(module):
            return f"{path} replaces its own forward"
        for _, part in modules_of(module):
            stored = {*part._parameters, *part._buffers}
            if not stored.isdisjoint(dir(type(part))) or not stored.isdisjoint(vars(part)):
                return f"a weight of {path} is hidden behind another attribute of its name"
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is not None and self._owned[memory(tensor)] > 1:
                    return f"the weights of {path} are held elsewhere too"
        return None

    def _is_reached(self, path: str, module: nn.Module) -> bool:
        """Whether code gets it by its path: a class may have an attribute of the same name."""
        try:
            return self.model.get_submodule(path) is module
        except AttributeError:
            return False


class Succession:
    """The proofs about one model.

    Args:
        places: of its modules.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._paths = places.paths
        self._code = PlainModel(places.model)
        self.refused: dict[str, str] = {}

    def pairs(self) -> list[Pair]:
        """All pairs of modules that are proved to follow one another; reasons for others are kept
        in ``refused``, by the path of the second.
        """
        found: list[Pair] = []
        if self._code.strange is not None:
            self.refused = dict.fromkeys(self._paths, self._code.strange)
            return []
        for path, module in self._paths.items():
            if is_scripted(module):
                self.refused[path] = f"{path} is TorchScript, whose layers cannot be changed"
                continue
            sequential = is_sequential(module)
            candidates = (self._neighbours if sequential else self._called_in_turn)(path, module)
            for pair, why in candidates:
                ends = (self._end(pair.first, -1), self._end(pair.second, 0))
                why = why or next((w for w in map(self._refuse, ends) if w), None)
                if why is None:
                    found.append(Pair(*ends))
                else:
                    self.refused[ends[1]] = why
        return found

    def _refuse(self, path: str) -> str | None:
        if (why := self._places.refuse(path) or self._code.why_exposed(path)) is not None:
            return why
        module = self._paths[path]
        kinds = [kind for kind in type(module).__mro__ if not is_known(kind)]
        own = next((n for n in BEHAVIOUR if any(n in vars(kind) for kind in kinds)), None)
        if own is not None:
            return f"{path} has a {own} of its own"
        # A method may write to weights, or ask whether there is a bias.
        return f"{path} has methods of its own" if self._code.has_code(module) else None

    def _end(self, path: str, place: int) -> str:
        """The last, or first, module of what is run there: down through containers."""
        module = self._paths[path]
        while is_sequential(module) and len(module._modules) and self._opened(path) is None:
            inside = below(path, list(module._modules)[place])
            if inside not in self._paths:
                break
            path, module = inside, self._paths[inside]
        return path

    def _neighbours(self, path: str, module: nn.Module) -> Iterator[tuple[Pair, str | None]]:
        why = self._opened(path)
        names = [below(path, name) for name in module._modules]
        for first, second in itertools.pairwise(names):
            if first in self._paths and second in self._paths:
                yield Pair(first, second), why

    def _opened(self, path: str) -> str | None:
        """Why a container may be run in part."""
        module = self._paths[path]
        if self._places.is_shared(path):
            return f"{path or 'the model'} is held in several places"
        if (why := self._code.why_exposed(path)) is not None:
            return why
        if self._code.sets_attributes(module):  # one may be a module that runs behind the others
            return f"{path or 'the model'} sets attributes of its own"
        named = (use for name in module._modules for use in self._code.named(module, name))
        return next((str(use) for use in named if use.use is not Use.ASKED), None)

    def _called_in_turn(self, path: str, module: nn.Module) -> Iterator[tuple[Pair, str | None]]:
        """Pairs of attributes, found at the calls of the second."""
        if isinstance(module, _CONTAINERS):
            return  # whoever has it may run its modules one by one
        for name in module._modules:
            second = below(path, name)
            if second not in self._paths:
                continue
            uses = [n for n in self._code.named(module, name) if n.use is not Use.ASKED]
            before = [argument_of(use.function, use.node) for use in uses]
            names = {node.attr for node in before if node is not None}
            if len(names) != 1 or (first := names.pop()) not in module._modules:
                continue
            pair = Pair(below(path, first), second)
            if pair.first not in self._paths:
                continue
            taken = {id(node) for node in before}
            others = [use for use, node in zip(uses, before, strict=True) if node is None]
            others += [
                use
                for use in self._code.named(module, first)
                if id(use.node) not in taken and use.use is not Use.ASKED
            ]
            yield pair, str(others[0]) if others else None
