"""Out of the process: ahead-of-time packages that know nothing of bnfx.

``torch.onnx.export`` needs no help of ours: hand it what :func:`bnfx.fold` returns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from bnfx.errors import CaptureError, TrainingModeError
from bnfx.folding.programs.exported import fold_exported
from bnfx.options import parse_rules
from bnfx.report.files import whole_stream


def compile_package(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    rules: str | Sequence[str] = "all",
    inductor_configs: Mapping[str, Any] | None = None,
) -> Path:
    """Export ``model``, fold it, and compile it with AOTInductor into a ``.pt2`` package.

    ``torch._inductor.aoti_load_package(path)`` runs it, in Python or C++, without bnfx. The file
    appears whole or not at all.

    Args:
        model: in evaluation mode, or already exported (then ``args`` and ``dynamic_shapes`` are
            not used).
        args, kwargs: example inputs.
        path: ends in ``.pt2``.
        dynamic_shapes: as for ``torch.export.export``.
        rules: ``"all"``, ``"none"`` or rule names.
        inductor_configs: options of Inductor.

    Returns:
        The path.

    Raises:
        CaptureError: if ``torch.export`` cannot export the model.
        TrainingModeError: if it is in training mode.
        ValueError: if the path does not end in ``.pt2``.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"a package's path ends in .pt2, unlike {str(path)!r}")
    program = export_model(model, args, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
    folded, _ = fold_exported(program, parse_rules(rules))
    return write_package(folded, path, inductor_configs)


def write_package(
    program: ExportedProgram, path: Path, inductor_configs: Mapping[str, Any] | None = None
) -> Path:
    """Compile ``program`` as it is, with AOTInductor; the file appears whole or not at all."""
    with whole_stream(path) as stream:
        torch._inductor.aoti_compile_and_package(
            program, package_path=stream, inductor_configs=dict(inductor_configs or {})
        )
    return path


def export_model(
    model: nn.Module | ExportedProgram,
    args: Sequence[Any],
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """``torch.export.export`` of a model in evaluation; a program is returned as it is.

    Raises:
        CaptureError: if it cannot be exported.
        TrainingModeError: if it is in training mode.
    """
    if isinstance(model, ExportedProgram):
        return model
    if isinstance(args, torch.Tensor):
        raise TypeError("args is a tuple of the model's inputs: (x,), not x")
    if model.training:
        raise TrainingModeError("the model is in training mode; call model.eval() first")
    try:
        with torch.no_grad():
            return torch.export.export(
                model, tuple(args), dict(kwargs or {}), dynamic_shapes=dynamic_shapes
            )
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        kind = type(model).__name__
        raise CaptureError(f"torch.export cannot export {kind}: {''.join(first)}") from error


def save_program(program: ExportedProgram, path: str | os.PathLike[str]) -> Path:
    """``torch.export.save``, to a file that appears whole or not at all."""
    path = Path(path)
    with whole_stream(path) as stream:
        torch.export.save(program, stream)
    return path
