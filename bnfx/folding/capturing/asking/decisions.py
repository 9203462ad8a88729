"""Whether code that ran with proxies looked at an argument.

A proxy answers some questions wrongly and without a trace: it "is not None", it is an instance of
nothing, it equals no type. So the source of each function that ran is read: what decides there must
have nothing to do with an argument, or with a parameter, which is a proxy too.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FrameType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bnfx.folding.capturing.asking.holding import leads_to_symbol
from bnfx.folding.capturing.asking.modes import asked_mode, is_pythons, module_of, profiled
from bnfx.folding.capturing.asking.parts_of_code import FUNCTIONS
from bnfx.folding.capturing.asking.tainted import Reader, Run

_BLIND = (
    "torch.fx",
    "torch.overrides",
    "torch._jit_internal",
    "torch._ops",
    "torch._VF",
    "torch.nn.parameter",
    "torch.nn.modules.module",
    "torch.nn.modules.container",
    "torch.utils._pytree",
    "torch._dynamo",
    "torch.utils._contextlib",
    "torch.autograd.grad_mode",
    "torch._utils",
    "torch.jit._trace",
    "bnfx",
    "torch.compiler",
    "contextlib",
    "unittest.mock",
    "typing",
    "inspect",
    "importlib",
    "warnings",
)
_INLINE = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")  # read with what is around them


_Key = tuple[CodeType, int, frozenset[str], frozenset[str]]


@dataclass
class Decisions:
    """What ran during a trace.

    Args:
        asked: what cannot be answered, in words.
    """

    asked: list[str] = field(default_factory=list)
    runs: dict[_Key, Run] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    open: dict[int, Run] = field(default_factory=dict)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Note each Python function that this thread runs."""
        with profiled(self._note):
            yield

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if (mode := asked_mode(frame, event, arg)) is not None:
            self.asked.append(f"{code.co_name} asks for {mode}")
        if event == "return":
            self._note_end(frame, arg)
        if event != "call" or frame.f_back is None:
            return
        module, above = module_of(frame), module_of(frame.f_back)
        if code.co_name in ("is_fx_tracing", "is_fx_symbolic_tracing"):
            if not _is_torchs(above):
                self.asked.append(f"{frame.f_back.f_code.co_name} asks whether it is traced")
            return
        if _is_within(module, _BLIND) or code in _dispatched() or code.co_name in _INLINE:
            return
        generated = code.co_filename.startswith("<")
        if generated and (module.startswith("namedtuple_") or "fx-generated" in code.co_filename):
            return
        if _is_library(module) and _is_within(above, ("torch.fx", "bnfx")):
            return  # the tracer's own work
        values = {n: v for n, v in frame.f_locals.items() if n != "__class__"}
        proxies = frozenset(n for n, v in values.items() if issubclass(type(v), fx.Proxy))
        holders = frozenset(n for n, v in values.items() if leads_to_symbol(v)) - proxies
        if not proxies and not holders and _is_library(module):
            return
        name = code.co_varnames[0] if code.co_argcount else ""
        owner = values.get(name)
        owner = owner if isinstance(owner, nn.Module) else None
        # Nothing else: what is kept here could keep symbols.
        known = (BuiltinFunctionType, ModuleType, type)
        free = {n: values[n] for n in code.co_freevars if isinstance(values.get(n), known)}
        space = ChainMap(free, frame.f_globals, frame.f_builtins)
        run = Run(code, module, owner, name if owner is not None else "", proxies, holders, space)
        key = (code, id(owner), proxies, holders)
        self.open[id(frame)] = self.runs.setdefault(key, run)

    def _note_end(self, frame: FrameType, answer: Any) -> None:
        """Note what a function gives, and what its names stand for by then."""
        name = frame.f_code.co_name
        if name == "__exit__" and isinstance(answer, int) and answer:
            self.asked.append("an error is suppressed, which only a trace may meet")
        run = self.open.pop(id(frame), None)
        symbol = issubclass(type(answer), fx.Proxy) or (run and leads_to_symbol(answer))
        if symbol and not _is_within(module_of(frame), ("torch.fx",)):
            self.sources.add(name)
        if run is not None:
            for each, value in frame.f_locals.items():
                if isinstance(value, nn.Module):
                    run.modules[each] = value
                elif each != "__class__" and leads_to_symbol(value):
                    run.late.add(each)

    def refuse(self) -> str | None:
        """A place that may have looked at an argument; ``None`` if there is none."""
        for run in self.runs.values():
            nodes = function_nodes(run.code)
            if not nodes:
                return f"the source of {run.code.co_name} cannot be read"
            for node in nodes:
                line = Reader(run, self.sources, node).decision()
                if line is not None:
                    text = linecache.getline(run.code.co_filename, line).strip()
                    name = getattr(run.code, "co_qualname", run.code.co_name)
                    return f"{name} may decide by an argument, in line {line}: `{text}`"
        return self.asked[0] if self.asked else None


def _is_torchs(module: str) -> bool:
    return _is_within(module, ("torch",))


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)


def _is_library(module: str) -> bool:
    return _is_torchs(module) or is_pythons(module)


@lru_cache(maxsize=1)
def _dispatched() -> frozenset[CodeType]:
    """Torch's functions that hand a proxy over before they look at it."""
    functions = (*torch.overrides.get_testing_overrides(), torch._assert)
    codes = {f.__code__ for f in functions if hasattr(f, "__code__")}
    behind = (f.__code__ for f in vars(F).values() if hasattr(f, "__code__"))  # _max_pool2d
    codes |= {c for c in behind if any(n.startswith("has_torch_function") for n in c.co_names)}
    return frozenset(codes)


def function_nodes(code: CodeType) -> list[Any]:
    """The source of a function; several where lambdas stand in one line; none if not to be had."""
    nodes, line = _nodes(code.co_filename), code.co_firstlineno
    renamed = () if code.co_name.startswith("<") else nodes.get((line, ""), ())
    return nodes.get((line, code.co_name)) or list(renamed)


@lru_cache(maxsize=64)
def _nodes(filename: str) -> dict[tuple[int, str], list[Any]]:
    """The functions of a file by first line and name; by ``""``, those that have a name.

    A code object may have been renamed: from torch 2.15 on, those of decorators such as
    ``torch.no_grad()`` are, after the context manager.
    """
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[tuple[int, str], list[Any]] = {}
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            decorators = getattr(node, "decorator_list", [])
            line = min([node.lineno, *(d.lineno for d in decorators)])
            found.setdefault((line, getattr(node, "name", "<lambda>")), []).append(node)
            if not isinstance(node, ast.Lambda):
                found.setdefault((line, ""), []).append(node)
    return found
