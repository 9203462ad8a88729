"""Who runs which module while a model is traced, and who else might.

A fold rewrites one module for the sake of another, so both must always run together. What was
traced is known; this module looks at the rest: code of the model's classes that names one of the
two and did not run (another method, a branch not taken).
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import CellType, CodeType, FrameType
from typing import Any

from torch import nn

from bnfx.folding.modules.instruction_trace import note_instructions
from bnfx.folding.modules.method_code import codes_in, references, runs_in_turn, takes_once

_WRAPPED = ("fget", "fset", "func", "__func__", "__wrapped__")
_SETUP = frozenset({"_load_from_state_dict", "_save_to_state_dict", "load_state_dict"})
_SETUP |= frozenset({"__init__", "__setstate__", "__repr__", "extra_repr", "init_weights"})


@dataclass
class Callers:
    """What ran during a trace.

    Args:
        root: the module that is traced.
        calls: module path -> the frames that called it, in order.
        ran: (module, code) -> offsets of the instructions that ran.
    """

    root: nn.Module = field(default_factory=nn.Module)
    calls: dict[str, list[FrameType]] = field(default_factory=dict)
    ran: dict[tuple[int, CodeType], set[int]] = field(default_factory=dict)

    def note_call(self, path: str) -> None:
        """Note that the code above, outside torch's own call machinery, runs ``path``."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and _is_machinery(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            self.calls.setdefault(path, []).append(frame)

    def together(self, first: str, second: str) -> bool:
        """Whether each call of a method that runs one of both runs the other, once each."""
        ours = list(map(id, self.calls.get(first, ())))
        theirs = list(map(id, self.calls.get(second, ())))
        return bool(ours) and len(set(ours)) == len(ours) and sorted(ours) == sorted(theirs)

    @contextlib.contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Note the instructions that methods of the model's own classes run."""
        self.root = model
        known = {id(module) for module in model.modules()}

        def choose(frame: FrameType) -> set[int] | None:
            code = frame.f_code
            if _is_torchs(code.co_filename) or code.co_name == "<module>":
                return None
            if "self" not in (*code.co_varnames, *code.co_freevars):
                return None
            owner = id(frame.f_locals.get("self"))
            return self.ran.setdefault((owner, code), set()) if owner in known else None

        with note_instructions(choose):
            yield

    def stranger(
        self,
        owner: nn.Module,
        names: Sequence[str],
        model: nn.Module,
        whole: bool = False,
        listed: bool = False,
    ) -> str | None:
        """A place in the model's code that could run ``owner``'s children ``names`` otherwise.

        Args:
            owner: the module whose methods run them.
            names: the attributes that lead to them: a layer and its BatchNorm.
            model: all classes of its modules are read.
            whole: the names lead to a container of both, so that running it is running both.
            listed: the container stands in a list, which the names lead to.

        Returns:
            ``Class.method``, or ``None`` if all code that names them has run, or runs both in turn.
        """
        for kind in dict.fromkeys(map(type, model.modules())):
            for function in _functions(kind):
                own = isinstance(owner, kind)
                if listed and own and takes_once(function.__code__):
                    continue
                if self._is_strange(function, owner, names, own, whole):
                    return f"{kind.__name__}.{function.__name__}"
        return None

    def _is_strange(
        self, function: Any, owner: nn.Module, names: Sequence[str], own: bool, whole: bool
    ) -> bool:
        ran = own and (id(owner), function.__code__) in self.ran
        for code in codes_in(function.__code__):
            for reference in references(code):
                if not reference.may_be(names) or (reference.by_self and not own):
                    continue
                if whole and reference.is_call:
                    continue
                if reference.offset in self._seen(code, owner if reference.by_self else None):
                    continue
                if ran or not (own and reference.name and runs_in_turn(function, names)):
                    return True
        return False

    def _seen(self, code: CodeType, owner: nn.Module | None) -> set[int]:
        """The instructions of ``code`` that ran, for this module or for any."""
        if owner is not None:
            return self.ran.get((id(owner), code), set())
        return {offset for key, some in self.ran.items() if key[1] is code for offset in some}

    def reads(self, module: nn.Module, name: str) -> bool:
        """Whether a method of ``module`` read its attribute ``name`` when it was traced."""
        return any(
            reference.name == name and reference.offset in seen
            for (owner, code), seen in self.ran.items()
            if owner == id(module)
            for reference in references(code)
        )


def _functions(kind: type) -> Iterator[Any]:
    """The methods of a class that are its author's."""
    for base in kind.__mro__:
        if base is nn.Module or base is object or base.__module__.startswith("torch.nn"):
            continue
        for name, value in vars(base).items():
            if name not in _SETUP:
                yield from _unwrapped(value)


def _unwrapped(value: Any) -> Iterator[Any]:
    """The functions in a method, a property, a decorated function, and other descriptors."""
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen or isinstance(current, type):
            continue
        seen.add(id(current))
        stack += [getattr(current, name, None) for name in _WRAPPED]
        if inspect.isfunction(current):
            yield current
            cells = (cell for cell in current.__closure__ or () if cell != CellType())
            stack += [c.cell_contents for c in cells if inspect.isfunction(c.cell_contents)]


def _is_torchs(filename: str) -> bool:
    return "/torch/" in filename.replace("\\", "/")


def _is_machinery(filename: str) -> bool:
    name = filename.replace("\\", "/")
    return (
        "/torch/fx/" in name
        or name.endswith(
            (
                "torch/nn/modules/module.py",
                "bnfx/folding/capture.py",
                "bnfx/folding/modules/callers.py",
                "bnfx/folding/modules/traced_parts.py",
                "torch/_compile.py",
            )
        )
        or "/torch/utils/" in name
        or "/torch/_dynamo/" in name
    )
