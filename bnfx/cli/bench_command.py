"""The command ``bnfx bench``: a user's models, the zoo, or bnfx itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bnfx.cli.command_options import Input, Weights, WeightsKey
from bnfx.cli.exits import errors, require, stop

_ROUNDS = 20


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Models to time, named as in bnfx explain."),
    ] = None,
    shapes: Input = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A way to run it; once for each. All, if there is none."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Rounds of five calls of each way; {_ROUNDS} unless this is given."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plot: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="SPEED.svg", help="Also draw the times of one model."),
    ] = None,
    zoo: Annotated[
        bool, typer.Option("--zoo", help="Hundreds of models: is every answer right?")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="SUBSTRING", help="Of the zoo, models with this in their name."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Of the zoo, print docs/zoo.md in place of a table.")
    ] = False,
    rows: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Add each row of the zoo to this file as it is measured, and measure no model "
            "that is there already: a run that was cut off goes on.",
        ),
    ] = None,
) -> None:
    """Time models on every engine that is installed, each answer compared in float64.

    Each way to run a model has a process of its own, and they take turns: eager, torch.fx's fuse,
    Inductor with and without freezing, ONNX Runtime, OpenVINO, bnfx, and the model without
    BatchNorms as the limit. BatchNorms that were never trained get random numbers. Takes some
    minutes a model, most of it compiling.

    With --zoo, every model is compared in float64 with its folded graph, run by no compiler, and
    what became of its BatchNorms is counted: about 40 minutes on 2 CPU cores. Without models,
    what rewriting and checking for stale weights cost is measured. Nothing is downloaded.

    Exits with status 1 if bnfx's answer is wrong, or fails.
    """
    if not zoo and (only or as_markdown or rows):
        stop("bnfx bench: --only, --markdown and --rows are for --zoo")
    if zoo and models:
        stop("bnfx bench: models or --zoo, not both")
    of_models = (shapes, weights, weights_key, engine, plot, rounds)
    if not models and (any(of_models) or device != "cpu"):
        stop("bnfx bench: which model? Example: bnfx bench torchvision:resnet18 --input 1x3x64x64")
    if as_json and as_markdown:
        stop("bnfx bench: --json or --markdown, not both")
    if as_json and not zoo and not models:
        stop("bnfx bench: --json is for models and for --zoo")
    require("bench", "torch", *(() if models else ("torchvision", "timm")))
    if models:
        with errors("bench"):
            from bnfx.cli.compare_ways import compare

            status = compare(
                models,
                shapes or [],
                weights=weights,
                weights_key=weights_key,
                engines=engine or [],
                rounds=rounds or _ROUNDS,
                device=device,
                plot=plot,
                as_json=as_json,
            )
        raise typer.Exit(status)
    if zoo:
        raise typer.Exit(_zoo(only or (), as_json, as_markdown, rows))
    from bnfx.bench import check_cost, rewrite_cost

    rewrite_cost.main()
    check_cost.main()


def _zoo(only: Sequence[str], as_json: bool, as_markdown: bool, rows: Path | None) -> int:
    from bnfx.bench.zoo.catalogue import entries
    from bnfx.bench.zoo.run import TableFormat, run, select

    chosen = select(entries(), only)
    if not chosen:
        stop(f"bnfx bench: no model of the zoo has {' or '.join(only)} in its name")
    form: TableFormat = "json" if as_json else "markdown" if as_markdown else "table"
    return run(chosen, form=form, rows=rows)
