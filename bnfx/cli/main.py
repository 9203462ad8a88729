"""The command ``bnfx``. torch is imported by commands only, so that help is immediate.

Exit status: 0 for a right answer, 1 for a wrong one, 2 for a mistake in the call, a file that
cannot be used, or a missing package. Reports go to stdout, progress and errors to stderr; an error
is one line, with the way out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bnfx
from bnfx.cli.bench_command import bench
from bnfx.cli.command_options import (
    Dtype,
    Html,
    Input,
    Json,
    ModelExplorer,
    Source,
    Weights,
    WeightsKey,
)
from bnfx.cli.exits import errors, require

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Exact BatchNorm folding for PyTorch compilers.",
    epilog="Example: bnfx explain torchvision:resnet18 --input 1x3x224x224",
)

_DEFAULT_REPEATS = 15


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bnfx {bnfx.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Keeps commands subcommands, even while there is one."""


@app.command(epilog="Example: bnfx demo --quick --json > rows.json")
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer and smaller models: 3 minutes of a CPU core.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
    repeats: Annotated[
        int, typer.Option(min=1, help="Timed calls of each model, each way.")
    ] = _DEFAULT_REPEATS,
) -> None:
    """Compile well-known models with and without bnfx, and compare answers and speed.

    Each way to run a model has a process of its own, and they take turns. Weights are random and
    nothing is downloaded. Takes some minutes, most of it in Inductor. Exits with status 1 if an
    answer is wrong.
    """
    require("demo", "torch", "torchvision", "timm")
    from bnfx.demo import run
    from bnfx.demo.networks import cases

    raise typer.Exit(run(cases(quick), repeats=repeats, as_json=as_json))


app.command(epilog="Example: bnfx bench torchvision:resnet18 --input 1x3x224x224 --plot speed.svg")(
    bench
)


@app.command(epilog="Example: bnfx explain timm:repvgg_a0 --input 1x3x224x224 --json")
def explain(
    model: Source,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    shapes: Input = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
    every: Annotated[
        bool, typer.Option("--all", help="A row for each BatchNorm and affine op.")
    ] = False,
    html: Html = None,
    model_explorer: ModelExplorer = None,
) -> None:
    """Say what becomes of each BatchNorm, and why some are left.

    BatchNorms that are left for reasons of the same kind share a row, with one of them as the
    example. The model is put in evaluation mode.
    """
    with errors("explain"):
        require("explain", "torch")
        from bnfx.cli.checkpoints import WeightsFile
        from bnfx.cli.commands import explain_source
        from bnfx.cli.presentation import Presentation

        held = WeightsFile(weights, weights_key) if weights else None

        show = Presentation(as_json, every, html, model_explorer)
        typer.echo(explain_source(model, held, shapes or [], dtype, show))


@app.command(epilog="Example: bnfx fold torchvision:resnet18 folded.pt2 --input 1x3x224x224")
def fold(
    model: Source,
    output: Annotated[
        Path,
        typer.Argument(help="net.pt2: an exported program; net.onnx: ONNX."),
    ],
    weights: Weights = None,
    weights_key: WeightsKey = None,
    shapes: Input = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
    aot: Annotated[
        bool, typer.Option("--aot", help="Make an AOTInductor package of a .pt2: takes minutes.")
    ] = False,
    verify: Annotated[
        bool, typer.Option(help="Compare the answers before and after, on random inputs.")
    ] = True,
) -> None:
    """Fold a model and write it to a file.

    The model is put in evaluation mode. The file appears whole or not at all. Exits with status 1,
    and writes nothing, if the folded model's answer differs.
    """
    with errors("fold"):
        require("fold", "torch")
        from bnfx.cli.checkpoints import WeightsFile
        from bnfx.cli.commands import fold_source

        held = WeightsFile(weights, weights_key) if weights else None

        typer.echo(fold_source(model, output, held, shapes or [], dtype, as_json, aot, verify))


@app.command(epilog="Example: bnfx doctor --json")
def doctor(as_json: Json = False) -> None:
    """Print what of bnfx works here, and what to install for the rest.

    Exits with status 1 if nothing can be folded here: neither torch nor a TVM is there.
    """
    from bnfx.cli.doctor import examine, render

    findings = examine()
    typer.echo(render(findings, as_json))
    useful = any(f.works for f in findings if f.area in ("PyTorch", "TVM"))
    raise typer.Exit(0 if useful else 1)
