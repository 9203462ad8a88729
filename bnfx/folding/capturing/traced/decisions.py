"""Whether code that ran with symbols may have looked at one.

A symbol answers some questions wrongly and without a trace: it "is not None", it equals no type. So
the source of each function that ran is read (:mod:`bnfx.folding.capturing.traced.traced_code`); so
are torch's own, but for those that are the tracer's, and those that hand a symbol on before they
look at it.
"""

from __future__ import annotations

import contextlib
import gc
import linecache
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.folding.capturing.asking.modes import asked_mode, module_of, profiled
from bnfx.folding.capturing.traced.attribute_rules import loaded
from bnfx.folding.capturing.traced.bindings import Bindings
from bnfx.folding.capturing.traced.holding import leads_to_symbol
from bnfx.folding.capturing.traced.known_objects import is_known
from bnfx.folding.capturing.traced.noting_symbols import NotesReads
from bnfx.folding.capturing.traced.reachable import aliases, memory_of
from bnfx.folding.capturing.traced.runs import Facts, Run, is_tracers, is_within
from bnfx.folding.capturing.traced.traced_code import TracedCode
from bnfx.folding.capturing.traced.traced_names import (
    UNKNOWN,
    TracedNames,
    held_by,
    is_traced_through,
)
from bnfx.folding.modules.plain.data import is_constant
from bnfx.folding.modules.plain.library import is_library
from bnfx.folding.modules.plain.source import Sources
from bnfx.folding.modules.tree import modules_of
from bnfx.passes.fx.calls.modules import has_hooks
from bnfx.passes.fx.training.covers import is_cover

_INLINE = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")  # read with what is around them
_Key = tuple[CodeType, frozenset[Any], frozenset[Any], frozenset[Any], frozenset[Any]]


@dataclass
class Decisions:
    """What ran during a trace.

    Args:
        model: what was traced.
        asked: what cannot be answered, in words.
    """

    model: nn.Module
    asked: list[str] = field(default_factory=list)
    runs: dict[_Key, Run] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    known: set[int] = field(default_factory=set)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Note each Python function that this thread runs. The collector, which may run any code at
        any time (``gc.callbacks``), waits.
        """
        self.known = {id(module) for module in self.model.modules()}
        collects = gc.isenabled()
        gc.disable()
        try:
            with profiled(self._note), NotesReads(self.asked):
                yield
        finally:
            if collects:
                gc.enable()

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event == "c_call" and (mode := asked_mode(frame, event, arg)) is not None:
            self.asked.append(f"{code.co_name} asks for {mode}")
        if event == "return":
            if code.co_name == "__exit__" and isinstance(arg, int) and arg:
                self.asked.append("an error is suppressed, which only a trace may meet")
            ran = code in self.facts.ran and code not in self.facts.gives
            if ran and leads_to_symbol(arg):
                self.facts.gives.add(code)
        if event != "call" or frame.f_back is None:
            return
        module, above = module_of(frame), module_of(frame.f_back)
        if code.co_name in ("is_fx_tracing", "is_fx_symbolic_tracing"):
            if not is_within(above, ("torch",)):
                self.asked.append(f"{frame.f_back.f_code.co_name} asks whether it is traced")
            return
        library = is_library(code.co_filename)
        if library and is_tracers(module):
            return
        if code in _dispatched() or code.co_name in _INLINE or is_cover(code):
            return
        if _is_of_record(code, module):
            return
        if library and _is_for_tracer(frame.f_back):
            return  # the tracer's own work
        values = {n: v for n, v in frame.f_locals.items() if n != "__class__"}
        symbols = frozenset(n for n, v in values.items() if issubclass(type(v), fx.Proxy))
        if library and not symbols and not any(map(leads_to_symbol, values.values())):
            return
        if code.co_name == "__torch_function__":
            self.asked.append("a tensor's class is asked what its functions do")
        modules = {n: v for n, v in values.items() if isinstance(v, nn.Module) and n not in symbols}
        free = {n: values[n] for n in code.co_freevars if n in values and n not in symbols}
        # Nothing that could keep a symbol.
        free = {n: UNKNOWN if leads_to_symbol(v) else v for n, v in free.items()}
        unknown = next((n for n, v in values.items() if not is_known(v, self.known)), None)
        held = {n: _attributes(v) for n, v in values.items() if n not in symbols}
        constants = frozenset(n for n, v in values.items() if v is None or is_constant(v))
        objects = frozenset(n for n, v in values.items() if _is_object(v))
        ids = frozenset((name, id(value)) for name, value in (modules | free).items())
        run = Run(
            *(code, symbols, modules, held, constants, objects, free, unknown),
            frame.f_globals,
            frame.f_builtins,
        )
        self.runs.setdefault(
            (code, symbols, ids, constants, frozenset([*held.items(), unknown])), run
        )
        self.facts.ran.add(code)

    def refuse(self) -> str | None:
        """A place that may have looked at an argument; ``None`` if there is none."""
        if self.asked:
            return self.asked[0]
        sources, found = Sources(), set[str]()
        written: dict[CodeType, list[Bindings]] = {}
        read: list[TracedNames] = []
        for run in self.runs.values():
            if run.code not in written:
                trees = sources.trees(run.code, run.space, bound=True)
                if isinstance(trees, str):
                    return f"the source of {run.code.co_name} cannot be read: {trees}"
                outside = {*run.space, *run.code.co_freevars}
                written[run.code] = [Bindings(tree, outside) for tree in trees]
            for bindings in written[run.code]:
                self.facts.stored |= bindings.stored
                other = bindings.augmented - run.symbols - run.constants
                self.facts.writes |= bindings.writes or bool(other)
                read.append(TracedNames(run, bindings, self.facts))
        for names in read:
            code = TracedCode(names)
            if (line := code.line()) is not None:
                text = linecache.getline(names.run.code.co_filename, line).strip()
                return f"{names.run.name} may decide by an argument, in line {line}: `{text}`"
            found |= loaded(names)
        tensors = (*self.model.parameters(), *self.model.buffers())
        owned = {each for each in map(memory_of, tensors) if each is not None}
        for path, module in modules_of(self.model):
            where = path or type(module).__name__
            if is_traced_through(module, self.facts) and has_hooks(module):
                return f"{where} has hooks, which may decide by an argument"
            for name, value in held_by(module, found):
                if aliases(value, owned):
                    return f"{where}.{name} is a parameter or buffer, too"
                if not is_known(value, self.known):
                    return f"{where}.{name} may decide by an argument: it is {value!r:.60}"
        return None


def _is_for_tracer(frame: FrameType | None) -> bool:
    """Whether the tracer calls there, by itself or through what it has for containers."""
    while frame is not None and module_of(frame) == "torch.utils._pytree":
        frame = frame.f_back
    return frame is not None and is_within(module_of(frame), ("torch.fx", "bnfx"))


def _is_object(value: Any) -> bool:
    known = (fx.Proxy, nn.Module, torch.Tensor, type, ModuleType, FunctionType)
    return not issubclass(type(value), known) and hasattr(value, "__dict__")


def _attributes(value: Any) -> frozenset[str]:
    """Those of an object that leads to no symbol, which nothing computes."""
    own = getattr(value, "__dict__", None)
    if type(own) is not dict or isinstance(value, (nn.Module, type)) or leads_to_symbol(value):
        return frozenset()
    return frozenset(name for name in own if not hasattr(type(value), name))


def _is_of_record(code: CodeType, module: str) -> bool:
    """Whether it makes a named tuple."""
    made = code.co_name in ("<lambda>", "__new__") and set(code.co_names) == {"_tuple_new"}
    return made and module.startswith("namedtuple_") and code.co_filename.startswith("<")


@lru_cache(maxsize=1)
def _dispatched() -> frozenset[CodeType]:
    """Torch's functions that hand a proxy over before they look at it."""
    functions = (*torch.overrides.get_testing_overrides(), torch._assert)
    codes = {f.__code__ for f in functions if hasattr(f, "__code__")}
    behind = (f.__code__ for f in vars(F).values() if hasattr(f, "__code__"))  # _max_pool2d
    codes |= {c for c in behind if any(n.startswith("has_torch_function") for n in c.co_names)}
    return frozenset(codes)
