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
from bnfx.cli.exits import errors, require, stop

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
        bool, typer.Option("--quick", help="Fewer and smaller models: under 2 minutes.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of a table.")
    ] = False,
    repeats: Annotated[
        int, typer.Option(min=1, help="Timed calls of each model, each way.")
    ] = _DEFAULT_REPEATS,
) -> None:
    """Compile well-known models with and without bnfx, and compare answers and speed.

    Weights are random and nothing is downloaded. Takes about 5 minutes on 2 CPU cores, most of it
    in Inductor. Exits with status 1 if an answer is wrong.
    """
    require("demo", "torch", "torchvision", "timm")
    from bnfx.demo import run
    from bnfx.demo.networks import cases

    raise typer.Exit(run(cases(quick), repeats=repeats, as_json=as_json))


@app.command(epilog="Example: bnfx bench --zoo --only resnet --only timm/")
def bench(
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
        bool, typer.Option("--markdown", help="Print docs/zoo.md in place of a table.")
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
    """Measure bnfx itself: without --zoo, what rewriting and checking for stale weights cost.

    With --zoo, every model is compared in float64 with its folded graph, run by no compiler, and
    what became of its BatchNorms is counted. Nothing is downloaded. Takes about 40 minutes on 2 CPU
    cores. Exits with status 1 if an answer is wrong, or a model fails.
    """
    if not zoo and (only or as_json or as_markdown or rows):
        stop("bnfx bench: --only, --json, --markdown and --rows are for --zoo")
    if as_json and as_markdown:
        stop("bnfx bench: --json or --markdown, not both")
    require("bench", "torch", "torchvision", "timm")
    if not zoo:
        from bnfx.bench import check_cost, rewrite_cost

        rewrite_cost.main()
        check_cost.main()
        return
    from bnfx.bench.zoo.catalogue import entries
    from bnfx.bench.zoo.run import TableFormat, run, select

    chosen = select(entries(), only or ())
    if not chosen:
        stop(f"bnfx bench: no model of the zoo has {' or '.join(only or ())} in its name")
    form: TableFormat = "json" if as_json else "markdown" if as_markdown else "table"
    raise typer.Exit(run(chosen, form=form, rows=rows))


_Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, a Python file and a function of it that makes the model "
        "(net.py:make), or an exported program (net.pt2).",
    ),
]
_Weights = Annotated[
    Path | None,
    typer.Option(help="A state dict, .pt or .safetensors. Pickled code is never run."),
]
_WeightsKey = Annotated[
    str | None,
    typer.Option(help="The checkpoint's key that holds the state dict, if it is no usual one."),
]
_Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Shape of an input: 1x3x224x224; Nx3x224x224 leaves the first dimension open; "
        "1x16:int64 has a dtype of its own. Once for each.",
    ),
]
_Dtype = Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")]
_Html = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        metavar="PAGE.html",
        help="Also write the report as a page, with the graph before and after.",
    ),
]
_ModelExplorer = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        metavar="GRAPHS.json",
        help="Also write both graphs for Google's Model Explorer, verdicts beside them.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@app.command(epilog="Example: bnfx explain timm:repvgg_a0 --input 1x3x224x224 --json")
def explain(
    model: _Source,
    weights: _Weights = None,
    weights_key: _WeightsKey = None,
    shapes: _Input = None,
    dtype: _Dtype = "float32",
    as_json: _Json = False,
    every: Annotated[
        bool, typer.Option("--all", help="A row for each BatchNorm and affine op.")
    ] = False,
    html: _Html = None,
    model_explorer: _ModelExplorer = None,
) -> None:
    """Say what becomes of each BatchNorm, and why some are left.

    BatchNorms that are left for reasons of the same kind share a row, with one of them as the
    example. The model is put in evaluation mode.
    """
    with errors("explain"):
        require("explain", "torch")
        from bnfx.cli.checkpoints import WeightsFile
        from bnfx.cli.commands import Presentation, explain_source

        held = WeightsFile(weights, weights_key) if weights else None

        show = Presentation(as_json, every, html, model_explorer)
        typer.echo(explain_source(model, held, shapes or [], dtype, show))


@app.command(epilog="Example: bnfx fold torchvision:resnet18 folded.pt2 --input 1x3x224x224")
def fold(
    model: _Source,
    output: Annotated[
        Path,
        typer.Argument(help="net.pt2: an exported program; net.onnx: ONNX."),
    ],
    weights: _Weights = None,
    weights_key: _WeightsKey = None,
    shapes: _Input = None,
    dtype: _Dtype = "float32",
    as_json: _Json = False,
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
def doctor(as_json: _Json = False) -> None:
    """Print what of bnfx works here, and what to install for the rest.

    Exits with status 1 if nothing can be folded here: neither torch nor a TVM is there.
    """
    from bnfx.cli.doctor import examine, render

    findings = examine()
    typer.echo(render(findings, as_json))
    useful = any(f.works for f in findings if f.area in ("PyTorch", "TVM"))
    raise typer.Exit(0 if useful else 1)
