"""What is torch's own, or Python's, and known to do no more than its name says."""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import os
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from types import FunctionType, GetSetDescriptorType, MethodDescriptorType
from typing import Any

import torch
from torch import _jit_internal, nn
from torch.jit import _trace

_LIBRARIES = tuple(str(Path(str(module.__file__)).parent) + os.sep for module in (torch, os))
_LIBRARIES += (str(Path(__file__).parents[3]) + os.sep,)  # bnfx's own
_PLAIN_CLASSES = frozenset(
    [
        # ``str`` is none: the text of a tensor tells of its op.
        *(int, float, bool, bytes, complex, tuple, list, dict, set, frozenset, range, slice),
        *(ValueError, RuntimeError, NotImplementedError, TypeError, AssertionError, type(None)),
        *(OrderedDict, functools.partial, torch.finfo, torch.iinfo),
        *(torch.Tensor, nn.Parameter, torch.Size),
    ]
)
_IN_C = (MethodDescriptorType, GetSetDescriptorType)
_OP_ROOMS = ("_VariableFunctions", "_nn", "_special", "_fft", "_linalg", "_sparse", "_nested")
_FUNCTION_ROOMS: tuple[Any, ...] = (torch.functional, nn.functional)
_CALLING = frozenset(["handle_torch_function", "boolean_dispatch"])  # what they are given
_SINGLE: tuple[Any, ...] = (torch.is_tensor, torch._assert)
_SINGLE += (_jit_internal.is_scripting, _trace.is_tracing, torch.jit.annotate)
_SINGLE += (torch.is_grad_enabled, warnings.warn, torch.compiler.is_compiling)
_SINGLE += (torch.is_autocast_enabled,)
# Run when a model is made, set up, loaded or shown, never in a call: what is plain calls none.
UNREAD = frozenset(
    [
        *("__init__", "_load_from_state_dict", "_save_to_state_dict", "__repr__", "extra_repr"),
        *("reset_parameters", "init_weights", "_init_weights", "_initialize_weights"),
    ]
)
_NAMESPACES = ("aten", "prims")  # others may run Python
_LOG = ("torchvision.utils", "_log_api_usage_once")  # by which it counts its own use
_RUNNING = (
    ("torch.utils.checkpoint", "checkpoint"),
    ("torch.utils.checkpoint", "checkpoint_sequential"),
    ("timm.models._manipulate", "checkpoint_seq"),
)

# They tell of the ops that made a tensor, or of who looks at them.
TELLING = frozenset(
    [
        *("grad_fn", "register_hook", "register_post_accumulate_grad_hook", "requires_grad"),
        *("is_leaf", "retain_grad", "retains_grad", "grad", "backward", "data_ptr"),
        *("const_data_ptr", "storage", "untyped_storage"),
    ]
)
# How a tensor lies in memory, which a convolution decides otherwise than a BatchNorm.
LAYOUT = frozenset(["stride", "is_contiguous", "dim_order", "as_strided", "storage_offset"])

# Contexts of torch's that switch a mode, and do no more.
SWITCHES: tuple[Any, ...] = (torch.no_grad, torch.enable_grad, torch.inference_mode)
SWITCHES += (torch.autocast, torch.set_grad_enabled, torch.amp.autocast)

# Python's functions that plain code may call by their names.
BUILTINS = {
    name: getattr(builtins, name)
    for name in (
        *("len", "range", "int", "float", "bool", "min", "max", "sum", "abs", "tuple"),
        *("list", "dict", "zip", "enumerate", "isinstance", "round", "any", "all", "reversed"),
        *("ValueError", "RuntimeError", "NotImplementedError", "TypeError", "AssertionError"),
    )
}


def is_known(kind: type) -> bool:
    """Whether a class is torch's, Python's or bnfx's: found there by its name, in their files, and
    nobody put a function in place of one of a layer's.
    """
    home = sys.modules.get(kind.__module__)
    found: Any = home
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not kind or home is None:
        return False
    written = map(_is_as_written, vars(kind).values())
    if issubclass(kind, nn.Module) and not all(written):
        return False
    file = getattr(home, "__file__", None)
    return kind.__module__ in sys.builtin_module_names or (file is not None and is_library(file))


def _is_as_written(value: Any) -> bool:
    """Whether a member of a class was not put there by others."""
    made: Any = value
    if type(value) is not FunctionType:
        made = getattr(value, "fget", getattr(value, "__func__", value))
    if type(made) is FunctionType:
        return is_library(made.__code__.co_filename)
    return isinstance(made, (type, *_IN_C)) or not callable(made)


@functools.cache
def is_library(file: str) -> bool:
    """Whether a file is of a library. Python's holds all packages."""
    if file.startswith("<frozen "):
        return True
    below = [file[len(root) :] for root in _LIBRARIES if file.startswith(root)]
    return not all("-packages" in each for each in below)


def is_plain_class(kind: Any) -> bool:
    """Whether it only makes a layer or data."""
    if not isinstance(kind, type):
        return False
    if any(kind is each for each in _PLAIN_CLASSES):  # ``in`` would ask its metaclass
        return True
    return issubclass(kind, nn.Module) and is_known(kind)


@functools.cache
def _ops() -> dict[int, Any]:
    rooms = [getattr(torch._C, name, None) for name in _OP_ROOMS] + [math]
    found = [getattr(room, name) for room in rooms for name in dir(room)]
    ops: list[Any] = [each for each in found if inspect.isbuiltin(each)]
    for room in _FUNCTION_ROOMS:
        public = (value for name, value in vars(room).items() if name not in _CALLING)
        ops += [v for v in public if inspect.isbuiltin(v) or _is_torchs(v)]
    return {id(each): each for each in (*ops, *_SINGLE)}


def _is_torchs(value: Any) -> bool:
    """Whether it is a function in a file of torch's."""
    return type(value) is FunctionType and value.__code__.co_filename.startswith(_LIBRARIES[0])


def replaced() -> str | None:
    """A function of torch's, by which its layers compute, that somebody put another in place of."""
    computing = {*vars(nn.functional), *dir(torch._C._VariableFunctions)}
    for room in (nn.functional, torch):
        for name in vars(room).keys() & computing:
            value = vars(room)[name]
            known = inspect.isbuiltin(value) or type(value).__module__ == "typing"
            if not known and not _is_as_written(value):
                return f"{room.__name__}.{name} is not torch's own"
    return None


def is_plain_attribute(name: str) -> bool:
    """Whether an attribute of that name, of who knows what, is none by which a module runs its
    parts or unread code runs, and, of a tensor, torch's own.
    """
    of_tensors = inspect.getattr_static(torch.Tensor, name, None)
    if of_tensors is None:
        asked = hasattr(nn.Module, name) or name in UNREAD or name in ("format", "format_map")
        return not asked and not name.startswith("_")
    torchs = isinstance(of_tensors, _IN_C) or _is_torchs(of_tensors)
    return torchs and not name.startswith("_")


def is_op(value: Any) -> bool:
    """Whether it is a function that computes with tensors and numbers, or asks for a mode."""
    if type(value) is torch._ops.OpOverload:
        return value.namespace in _NAMESPACES
    known = id(value) in _ops() or _is_one_of(value, _LOG) or runs_in_order(value)
    return known and is_bare(value)


def is_bare(value: Any) -> bool:
    """Whether it has no attributes that plain code could read, which reads none in ``_``."""
    return all(name.startswith("_") for name in getattr(value, "__dict__", ()))


def runs_in_order(value: Any) -> bool:
    """Whether it runs its first argument, or all modules in it, in order and whole."""
    return _is_one_of(value, *_RUNNING)


def _is_one_of(value: Any, *places: tuple[str, str]) -> bool:
    """Whether it is what one of these Python modules has under that name, if it was imported, and
    was written there.
    """
    if type(value) is not FunctionType:
        return False
    homes = [h for h, name in places if getattr(sys.modules.get(h), name, None) is value]
    files = [sys.modules[home].__file__ for home in homes]
    inside: Any = inspect.unwrap(value)  # torch wraps its own
    wrapped = value is inside or _is_torchs(value)
    return wrapped and inside.__code__.co_filename in files
