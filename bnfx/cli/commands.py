"""What ``bnfx explain`` and ``bnfx fold`` do."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from bnfx.cli.checkpoints import WeightsFile
from bnfx.cli.inputs import make_inputs, named_sizes
from bnfx.cli.models import load_model
from bnfx.cli.presentation import Presentation, check_output
from bnfx.errors import BnfxError, CaptureError, SourceError, VerificationError
from bnfx.export import export_model, save_program, write_package
from bnfx.folding.explain import explain
from bnfx.folding.programs.exported import fold_exported
from bnfx.folding.verify import allowed, relative_error
from bnfx.report import Report
from bnfx.report.files import whole
from bnfx.report.output import write_whole
from bnfx.report.progress import progress


def explain_source(
    source: str,
    weights: WeightsFile | None,
    shapes: Sequence[str],
    dtype: str,
    show: Presentation,
) -> str:
    """The report as text.

    Raises:
        BnfxError: one of those of loading and capturing.
    """
    show.check()
    with _quiet(), progress(2, lines=False) as tell:
        tell("loading")
        model = load_model(source, weights, dtype)
        inputs, dynamic_shapes = make_inputs(shapes, dtype)
        if dynamic_shapes is not None and isinstance(model, nn.Module):
            # As bnfx fold does: what is captured on one size says nothing of others.
            model, inputs = _export(model, inputs, dynamic_shapes), ()
        tell("folding")
        try:
            report = explain(model, *inputs)
        except CaptureError as error:
            if inputs or not isinstance(model, nn.Module):
                raise
            why = str(error).partition(". ")[0]
            raise CaptureError(f"{why}; say what the model takes: --input 1x3x224x224") from error
        except (BnfxError, MemoryError):
            raise
        except Exception as error:
            raise CaptureError(_misfit(_eager_error(model, inputs) or error)) from error
    told = report.to_json() if show.as_json else report.to_text(every=show.every)
    written = []
    for path, text in show.files(report, source):
        with _writing(path):
            write_whole(path, text)
        written.append(f"written to {path}")
    return told if show.as_json or not written else "\n".join([told, "", *written])


def fold_source(
    source: str,
    output: Path,
    weights: WeightsFile | None,
    shapes: Sequence[str],
    dtype: str,
    as_json: bool,
    aot: bool,
    verify: bool,
) -> str:
    """Fold, compare, write; the report as text. ``output`` is written whole or not at all.

    Raises:
        BnfxError: one of those of loading, exporting and comparing.
    """
    check_output(output, (".pt2",) if aot else (".pt2", ".onnx"))
    with _quiet(), progress(5, lines=False) as tell:
        tell("loading")
        model = load_model(source, weights, dtype)
        inputs, dynamic_shapes = make_inputs(shapes, dtype)
        if isinstance(model, nn.Module) and not inputs:
            raise SourceError("say what the model takes: --input 1x3x224x224")
        tell("exporting")
        program = _export(model, inputs, dynamic_shapes)
        tell("folding")
        folded, report = fold_exported(program)
        inputs = inputs or (program.example_inputs or ((), {}))[0]
        tell("comparing answers")
        if verify and inputs:
            _compare(program, folded, inputs)
        tell("compiling" if aot else "writing")
        with _writing(output):
            _write(folded, output, aot, named_sizes(dynamic_shapes))
    told = Report((report,))
    return told.to_json() if as_json else f"{told}\nwritten to {output}"


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise SourceError(f"{output} cannot be written, and is as it was: {why}") from error


def _export(
    model: nn.Module | ExportedProgram, inputs: Sequence[Any], dynamic_shapes: Any
) -> ExportedProgram:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch writes half a graph there
            return export_model(model, inputs, dynamic_shapes=dynamic_shapes)
    except CaptureError as error:
        if (eager := _eager_error(model, inputs)) is not None:
            raise CaptureError(_misfit(eager)) from error
        way_out = (
            'torch.compile(model, backend="bnfx") needs no whole graph, and bnfx.fold(model, x) '
            "folds the parts that can be traced"
        )
        raise CaptureError(f"{error}; {way_out}") from error


def _eager_error(model: Any, inputs: Sequence[Any]) -> Exception | None:
    """What the model itself says of the inputs, which is plainer than what a compiler says."""
    if isinstance(model, ExportedProgram):
        return None
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        return error
    return None


def _misfit(error: Exception) -> str:
    return f"the inputs do not fit the model: {_first(error)}"


def _compare(program: ExportedProgram, folded: ExportedProgram, inputs: Sequence[Any]) -> None:
    try:
        with torch.no_grad():
            expected = program.module()(*inputs)
            actual = folded.module()(*inputs)
    except Exception as misfit:
        raise CaptureError(_misfit(misfit)) from misfit
    error, bound = relative_error(actual, expected), allowed(True, expected)
    if not error <= bound:
        raise VerificationError(
            f"the folded model's answer differs by {error:.1e}, more than {bound:.1e}; nothing was "
            "written; please report it"
        )


def _write(program: ExportedProgram, output: Path, aot: bool, sizes: Any) -> None:
    if aot:
        write_package(program, output)
    elif output.suffix == ".pt2":
        save_program(program, output)
    else:
        _write_onnx(program, output, sizes)


def _write_onnx(program: ExportedProgram, output: Path, sizes: Any) -> None:
    """``sizes``: names of open dimensions, an input a row."""
    with whole(output) as temporary:
        try:
            torch.onnx.export(
                program,
                (),
                str(temporary),
                dynamo=True,
                verbose=False,
                external_data=False,
                dynamic_shapes=sizes,
            )
        except ImportError:
            raise SourceError("ONNX needs onnx and onnxscript: pip install 'bnfx[onnx]'") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own remarks off the terminal."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "TORCH_LOGS" not in os.environ:
            logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def _first(error: Exception) -> str:
    return "".join(str(error).strip().splitlines()[:1])
