"""What ``bnfx bench MODEL`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import typer

from bnfx.bench.on_models.bench_ways import choose
from bnfx.bench.on_models.bench_worker import Job, load
from bnfx.bench.on_models.model_race import Race, race
from bnfx.bench.on_models.race_shown import picture, table
from bnfx.cli.named_subject import named_subject
from bnfx.errors import BnfxError, CaptureError, SourceError
from bnfx.report.output import write_whole
from bnfx.report.progress import progress


def compare(
    sources: Sequence[str],
    shapes: Sequence[str],
    *,
    weights: Path | None,
    weights_key: str | None,
    engines: Sequence[str],
    rounds: int,
    device: str,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Compare the ways to run each model, and print what was measured.

    Returns:
        The exit status: 1 if an answer of bnfx is wrong, or it fails.

    Raises:
        SourceError: for a model, inputs, weights or a way that cannot be used.
    """
    _check(device, plot, len(sources))
    ways, left_out = choose(engines, device, len(shapes))
    if not ways:
        raise SourceError(f"nothing is left to compare: {'; '.join(left_out)}")
    races = []
    for source in sources:
        subject = named_subject(source, shapes, weights, weights_key)
        jobs = [Job(way, subject, device) for way in ways]
        _try_once(jobs[0])
        with progress(len(jobs) + 1, lines=False) as tell:
            races.append(race(jobs, rounds, left_out, tell))
        if not as_json:
            typer.echo(table(races[-1]))
    if as_json:
        inner = ",\n".join(each.to_json() for each in races)
        typer.echo(f"[{inner}]")
    if plot is not None:
        write_whole(plot, picture(races[0]))
        typer.echo(f"written to {plot}", err=True)
    return int(any(map(_failed, races)))


def _failed(race: Race) -> bool:
    ours = [row for row in race.rows if row.way.startswith("bnfx")]
    return any(row.is_wrong or row.ms != row.ms for row in ours)


def _check(device: str, plot: Path | None, models: int) -> None:
    if device not in ("cpu", "cuda"):
        raise SourceError(f"--device {device} is not known: it is cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SourceError("--device cuda: PyTorch finds no GPU here")
    if plot is None:
        return
    if plot.suffix != ".svg":
        raise SourceError(f"{plot} must end in .svg")
    if models > 1:
        raise SourceError("--plot draws one model: name one")
    if not plot.absolute().parent.is_dir():
        raise SourceError(f"the folder of {plot} does not exist; make it first")


def _try_once(job: Job) -> None:
    """A mistake in the call is told before any process starts."""
    try:
        model, x = load(job)
        with torch.no_grad():
            model(x)
    except BnfxError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise CaptureError(f"the inputs do not fit the model: {''.join(first)}") from error
