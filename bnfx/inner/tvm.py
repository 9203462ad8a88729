"""TVM as the inner compiler of the ``torch.compile`` backend.

``torch.compile(model, backend="bnfx", options={"inner": "tvm", "inner_options": {...}})``.

A graph is exported, decomposed and imported into Relax for the sizes that it is called with; what
TVM's importer does not know runs in PyTorch, and a warning names it. Weights are constants where
:mod:`bnfx.compiled` vouches for them, and inputs otherwise: so nothing here can be stale.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from bnfx.errors import InnerWarning
from bnfx.inner.base import Inner
from bnfx.torch_private import FakeTensor, tracing
from bnfx.tvm import relax as build
from bnfx.tvm.importer import import_program
from bnfx.tvm.partition import Unsupported, partitioned
from bnfx.tvm.runner import Runner
from bnfx.tvm.settings import Settings
from bnfx.tvm.tune import tuned

log = logging.getLogger("bnfx")

# One graph is compiled for so many sizes; others run in PyTorch.
MAX_SIZES = 16

Compiled = Callable[..., Any]


def inner(options: Mapping[str, Any]) -> Inner:
    """The inner compiler that these options describe.

    Raises:
        OptionError: for an unknown option, or a target that this TVM has no code for.
    """
    settings = Settings.parse(options)

    def compile_(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        compiled = PerSize(module, settings)
        differentiated = torch.is_grad_enabled() and any(map(_needs_gradient, example_inputs))
        if not differentiated and all(map(_is_real, example_inputs)):
            compiled.prepare(example_inputs)
        return compiled

    return Inner(compile_, compile_)


class PerSize:
    """A graph that is built anew for each combination of sizes that it is called with.

    Args:
        module: its attributes are constants.
        settings: of the build.
    """

    def __init__(self, module: fx.GraphModule, settings: Settings) -> None:
        self._module = module
        self._settings = settings
        self._built: dict[object, Compiled] = {}
        self._lock = threading.Lock()
        self._differentiated = self._full = False

    def prepare(self, args: Sequence[Any]) -> Compiled:
        """What runs arguments like these."""
        key = tuple(map(_signature, args))
        built = self._built.get(key)
        if built is None:
            with self._lock:
                if len(self._built) >= MAX_SIZES:
                    if not self._full:
                        self._full = True
                        _warn(f"more than {MAX_SIZES} sizes: PyTorch runs the graph for others")
                    return self._module
                built = self._built[key] = _build(self._module, args, self._settings)
        return built

    def __call__(self, *args: Any) -> Any:
        if any(isinstance(value, FakeTensor) for value in args):
            return self._module(*args)  # DDP's graph splitter asks for the outputs' strides
        if torch.is_grad_enabled() and any(map(_needs_gradient, args)):
            if not self._differentiated:
                self._differentiated = True
                _warn("gradients are needed, and TVM has none: the graph runs in PyTorch")
            return self._module(*args)
        return self.prepare(args)(*args)


class _WithNumbers(nn.Module):
    """A graph of tensors alone: other arguments are what they are now."""

    def __init__(self, module: fx.GraphModule, args: Sequence[Any]) -> None:
        super().__init__()
        self.module = module
        self._args = [None if isinstance(value, torch.Tensor) else value for value in args]
        self._places = [at for at, value in enumerate(args) if isinstance(value, torch.Tensor)]

    def forward(self, *tensors: torch.Tensor) -> Any:
        args = list(self._args)
        for place, tensor in zip(self._places, tensors, strict=True):
            args[place] = tensor
        return self.module(*args)


class _TvmPart(nn.Module):
    """A part of a graph that TVM runs."""

    def __init__(self, module: fx.GraphModule, settings: Settings) -> None:
        super().__init__()
        self._run = PerSize(module, settings)

    def forward(self, *args: Any) -> Any:
        return self._run(*args)


def _build(module: fx.GraphModule, args: Sequence[Any], settings: Settings) -> Compiled:
    """The graph built by TVM as far as it can be; PyTorch runs the rest."""
    single = isinstance(module.graph.output_node().args[0], fx.Node)
    try:
        return _whole(_exported(module, args), settings, single)
    except Unsupported as error:
        names, program = error.names, error.program
    except Exception as error:
        _warn(f"TVM cannot take this graph, which runs in PyTorch: {error}")
        return module
    _warn(f"TVM does not know {', '.join(names)}; PyTorch runs that part of the graph")
    try:
        return _tensors_of(partitioned(program, lambda part: _TvmPart(part, settings)), single)
    except Exception as error:
        _warn(f"the graph could not be taken apart, and runs in PyTorch: {error}")
        return module


def _exported(module: fx.GraphModule, args: Sequence[Any]) -> torch.export.ExportedProgram:
    """The graph as a program without effects on its inputs, in TVM's operators.

    Raises:
        ValueError: if it writes to what it is given.
    """
    # Dynamo may be tracing: what it knows of its own graph is no matter of this one.
    with tracing(None), torch.no_grad():
        tensors = tuple(value.detach() for value in args if isinstance(value, torch.Tensor))
        exported = torch.export.export(_WithNumbers(module, args), tensors)
        program: torch.export.ExportedProgram = exported.run_decompositions()
    signature = program.graph_signature
    written = [*signature.user_inputs_to_mutate, *signature.buffers_to_mutate]
    if written:
        raise ValueError(f"it writes to {', '.join(written)}")
    return program


def _whole(program: torch.export.ExportedProgram, settings: Settings, single: bool) -> Compiled:
    """The program built by TVM; ``single`` if it gives one tensor rather than a tuple.

    Raises:
        Unsupported: naming the ops that TVM's importer does not know.
    """
    target = settings.target
    module = import_program(program)
    if settings.database is not None:
        module = tuned(module, settings)
        executable = build.build(module, target, relax_pipeline="default")
    else:
        executable = build.build(module, target)
    run = Runner(executable, _device(target))
    strides = [_strides(node) for node in program.graph.output_node().args[0]]

    def call(*tensors: Any) -> Any:
        return tuple(map(_laid_out, run(*tensors), strides))

    return _tensors_of(call, single)


def _tensors_of(run: Compiled, single: bool) -> Compiled:
    """``run``, which takes tensors and gives a tuple, with the signature of the graph."""

    def call(*args: Any) -> Any:
        result = run(*(value for value in args if isinstance(value, torch.Tensor)))
        return result[0] if single else result

    return call


def _device(target: Any) -> Any:
    import tvm

    return tvm.cpu() if str(target.kind.name) == "llvm" else tvm.device(str(target.kind.name), 0)


def _strides(node: Any) -> tuple[int, ...] | None:
    """An output's strides where they are not those of a tensor that is laid out in order."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.is_contiguous():
        return None
    return tuple(map(int, value.stride()))


def _laid_out(value: Any, strides: tuple[int, ...] | None) -> Any:
    if strides is None or not isinstance(value, torch.Tensor):
        return value
    out = torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device)
    return out.copy_(value)


def _signature(value: Any) -> object:
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.dtype, value.device)
    return (type(value), value)


def _needs_gradient(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) or (
        isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
    )


def _warn(message: str) -> None:
    warnings.warn(f"bnfx: {message}", InnerWarning, stacklevel=2)
    log.warning("bnfx: %s", message)
