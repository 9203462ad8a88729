"""The models that a command line names."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from bnfx.archives.pt2 import PackageError, load_program
from bnfx.archives.refused import RefusedError
from bnfx.cli.checkpoints import WeightsFile, check_file, load_weights
from bnfx.cli.inputs import DTYPES
from bnfx.errors import SourceError
from bnfx.options import nearest


def load_model(
    source: str, weights: WeightsFile | None = None, dtype: str = "float32"
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
    if dtype not in DTYPES:
        raise SourceError(f"--dtype {dtype} is not valid: it is {', '.join(DTYPES)}")
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
            f"{source!r} is not a model: use torchvision:NAME, timm:NAME, file.py:function or "
            f"file.pt2{_guess(source)}"
        )
    if weights is not None:
        load_weights(model, weights)
    _check_numbers(model, source)
    return model.to(DTYPES[dtype]).eval()


def _check_numbers(model: nn.Module, source: str) -> None:
    """Raise if parameters have no numbers, or not even a shape."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise SourceError(
                f"{source} has a lazy layer: {name} gets its shape in a first call; return the "
                "model after a call with an input"
            )
        if tensor.is_meta:
            raise SourceError(
                f"{source} has no numbers for {name}, which is on the meta device; return a model "
                "that has its weights"
            )


def _guess(source: str) -> str:
    """What was meant by a source that names no place."""
    if source.endswith(".onnx"):
        return "; bnfx reads no ONNX: name the PyTorch model that it was made of"
    if source.endswith(".py"):
        return f"; did you mean {source}:make, a function of that file?"
    with contextlib.suppress(ImportError):
        from torchvision import models

        if source in models.list_models():
            return f"; did you mean torchvision:{source}?"
    with contextlib.suppress(ImportError):
        import timm

        if timm.is_model(source):
            return f"; did you mean timm:{source}?"
    return ""


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
    check_file(path)
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


def _load_program(path: Path) -> ExportedProgram:
    check_file(path)
    try:
        with path.open("rb") as file:
            return load_program(file)
    except PackageError:
        raise SourceError(
            f"{path} is compiled by AOTInductor, run it with torch._inductor.aoti_load_package"
        ) from None
    except (RefusedError, OSError, MemoryError) as error:
        raise SourceError(
            f"{path} is not an exported program, or is damaged ({error}); save it again with "
            "torch.export.save"
        ) from error
