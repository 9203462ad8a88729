"""Every private name of torch that ``bnfx`` imports, and what stands for it where it is gone.

Those of the rewrites are in :mod:`bnfx.passes.fx.private`, those of SyncBatchNorm and of the inner
compilers where they are used: their callers go on without. ``docs/private-torch.md`` lists them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from bnfx.errors import BnfxError, CaptureError
from bnfx.passes.fx.private import FakeTensor as FakeTensor
from bnfx.passes.fx.private import OpOverload as OpOverload
from bnfx.passes.fx.private import fake_mode_of as detect_fake_mode
from bnfx.passes.fx.private import find
from bnfx.passes.fx.private import without_autocast as without_autocast

__all__ = [
    "CODE_NAMES",
    "BackendCompilerFailed",
    "ConstantSource",
    "DimDynamic",
    "FakeTensor",
    "FakeTensorMode",
    "InvalidCxxCompiler",
    "OpOverload",
    "RestartAnalysis",
    "SerializableCallable",
    "ShapeEnv",
    "ShortenTraceback",
    "StatelessSymbolicContext",
    "TracingContext",
    "deepcopy_to_fake_tensor",
    "detect_fake_mode",
    "export_to_torch_ir",
    "through_dynamo",
    "tracing",
    "without_autocast",
    "without_torch_functions",
]


class _NeverRaisedError(Exception):
    """Stands for an exception that this torch does not have."""

    def __init__(self, *args: object, first_useful_frame: object = None) -> None:
        super().__init__(*args)


def _missing(name: str) -> Callable[..., Any]:
    def refuse(*args: object, **kwargs: object) -> Any:
        raise CaptureError(
            f"torch {torch.__version__} has no {name}, by which bnfx finds shapes: use "
            'torch.compile(model, backend="bnfx"), or fold a torch.export program'
        )

    return refuse


def _copied(module: Any, mode: Any) -> Any:
    """A copy whose tensors are fake."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): mode.from_tensor(tensor) for tensor in tensors})


# Dynamo takes errors of these kinds as they are, or as the wish to trace once more.
if TYPE_CHECKING:
    ShortenTraceback = _NeverRaisedError
    SerializableCallable = object
else:
    # What ahead-of-time compilation takes from a backend.
    SerializableCallable = find("torch._dynamo.aot_compile_types:SerializableCallable") or object
    ShortenTraceback = find("torch._dynamo.exc:ShortenTraceback") or _NeverRaisedError
RestartAnalysis: Any = find("torch._dynamo.exc:RestartAnalysis") or _NeverRaisedError
BackendCompilerFailed: Any = find("torch._dynamo.exc:BackendCompilerFailed") or _NeverRaisedError
InvalidCxxCompiler: Any = find("torch._inductor.exc:InvalidCxxCompiler") or _NeverRaisedError

FakeTensorMode: Any = find("torch._subclasses.fake_tensor:FakeTensorMode") or _missing(
    "FakeTensorMode"
)
deepcopy_to_fake_tensor: Any = find("torch._dynamo.utils:deepcopy_to_fake_tensor") or _copied
# Without these, the shapes of a graph are those of the example inputs.
_SHAPES = "torch.fx.experimental.symbolic_shapes"
export_to_torch_ir: Any = find("torch.export._trace:_export_to_torch_ir")
ShapeEnv: Any = find(f"{_SHAPES}:ShapeEnv") or _missing("ShapeEnv")
DimDynamic: Any = find(f"{_SHAPES}:DimDynamic")
StatelessSymbolicContext: Any = find(f"{_SHAPES}:StatelessSymbolicContext") or _missing(
    "StatelessSymbolicContext"
)
ConstantSource: Any = find("torch._dynamo.source:ConstantSource") or _missing("ConstantSource")

# Names that the code of every graph uses, so that no value may have them.
CODE_NAMES = frozenset(
    find("torch.fx.graph:_custom_builtins")
    or ("inf", "nan", "NoneType", "torch", "device", "fx_pytree", "pytree")
)

TracingContext: Any = find("torch._guards:TracingContext") or _missing("TracingContext")
tracing: Any = find("torch._guards:tracing") or contextlib.nullcontext
# Dynamo wrote into a graph what ``__torch_function__`` of its inputs does, and calls it so.
without_torch_functions: Any = (
    find("torch._C:DisableTorchFunctionSubclass") or contextlib.nullcontext
)


def through_dynamo(error: BnfxError) -> Exception:
    """The same error, as a class that Dynamo lets through rather than wraps in its own."""
    kind = type(error)

    def init(self: Any, message: str) -> None:
        ShortenTraceback.__init__(self, message, first_useful_frame=None)

    # The user knows it as bnfx.OptionError and so on, so it is printed as such.
    members = {"__init__": init, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    shown: Any = type(kind.__name__, (kind, ShortenTraceback), members)
    return cast(Exception, shown(str(error)))
