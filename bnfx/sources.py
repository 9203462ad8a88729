"""Models, weights and inputs by the words of a command line."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.export import ExportedProgram

from bnfx.errors import SourceError
from bnfx.options import nearest

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    source: str, weights: Path | None = None, dtype: str = "float32"
) -> nn.Module | ExportedProgram:
    """The model that ``source`` names, in evaluation mode.

    Args:
        source: ``torchvision:NAME``, ``timm:NAME``, ``path.py:factory`` or ``x.pt2``. No weights
            are downloaded.
        weights: a state dict.
        dtype: its floating-point parameters become that.

    Raises:
        SourceError: one line on what is wrong, and the way out.
    """
    if dtype not in _DTYPES:
        raise SourceError(f"--dtype {dtype} is not valid{nearest(dtype, list(_DTYPES))}")
    kind, _, name = source.rpartition(":")
    if source.endswith(".pt2"):
        if weights is not None or dtype != "float32":
            raise SourceError(
                "an exported program has its own weights: leave out --weights, --dtype"
            )
        return _load_program(Path(source))
    if kind == "torchvision":
        model = _torchvision(name)
    elif kind == "timm":
        model = _timm(name)
    elif kind.endswith(".py"):
        model = _from_file(Path(kind), name)
    else:
        raise SourceError(
            f"{source!r} is no model: use torchvision:NAME, timm:NAME, file.py:function or file.pt2"
        )
    if weights is not None:
        _load_weights(model, weights)
    return model.to(_DTYPES[dtype]).eval()


def make_inputs(shapes: Sequence[str], dtype: str) -> tuple[torch.Tensor, ...]:
    """Random inputs of these shapes, ``1x3x224x224``.

    Raises:
        SourceError: for what is no shape.
    """
    random = torch.Generator().manual_seed(0)
    inputs = []
    for shape in shapes:
        try:
            sizes = [int(size) for size in shape.lower().split("x")]
        except ValueError:
            sizes = [-1]
        if min(sizes) < 1:
            raise SourceError(f"--input {shape} is no shape: write sizes with x, as 1x3x224x224")
        inputs.append(torch.randn(sizes, generator=random).to(_DTYPES[dtype]))
    return tuple(inputs)


def _torchvision(name: str) -> nn.Module:
    try:
        from torchvision import models
    except ImportError:
        raise SourceError("torchvision is not installed: pip install torchvision") from None
    known = models.list_models()
    if name not in known:
        raise SourceError(f"torchvision has no model {name!r}{_near(name, known)}")
    arguments = {"weights_backbone": None} if _has_backbone(models.get_model_builder(name)) else {}
    model: nn.Module = models.get_model(name, weights=None, **arguments)
    return model


def _has_backbone(builder: Callable[..., Any]) -> bool:
    import inspect

    return "weights_backbone" in inspect.signature(builder).parameters


def _timm(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise SourceError("timm is not installed: pip install timm") from None
    if not timm.is_model(name):
        raise SourceError(f"timm has no model {name!r}{_near(name, timm.list_models())}")
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _near(name: str, known: Sequence[str]) -> str:
    hint = nearest(name, known)
    return hint if "did you mean" in hint else ""


def _from_file(path: Path, name: str) -> nn.Module:
    _check_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SourceError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise SourceError(f"{path} has no function {name!r}{_near(name, names)}")
    try:
        model = factory()
    except Exception as error:
        raise SourceError(f"{path}:{name}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise SourceError(f"{path}:{name}() returned a {type(model).__name__}, not an nn.Module")
    return model


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"{path} is no file")


def _load_program(path: Path) -> ExportedProgram:
    _check_file(path)
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it logs the traceback that is told in one line below
    try:
        # torch.export.load unpickles what it finds in the archive, unless it is told this way.
        with mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}):
            return torch.export.load(path)
    except Exception as error:
        raise SourceError(
            f"{path} is no exported program, or a broken one; write it anew with torch.export.save"
        ) from error
    finally:
        log.setLevel(level)


def _load_weights(model: nn.Module, path: Path) -> None:
    _check_file(path)
    state = _read_state(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise SourceError(f"{path} holds no state dict; save model.state_dict()")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise SourceError(f"{path} does not fit {type(model).__name__}: {first}") from None


def _read_state(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise SourceError("safetensors is not installed: pip install safetensors") from None
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path} is no safetensors file, or cut off: {error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SourceError(
            f"{path} holds pickled code, which is not run, or is no checkpoint; save "
            "model.state_dict() alone"
        ) from None
    except Exception as error:
        first = " ".join(str(error).split())[:120]
        raise SourceError(f"{path} is no checkpoint, or cut off: {first}") from None
