"""The command ``bnfx``. torch is imported by commands only, so that help is immediate.

Exit status: 0 for a right answer, 1 for a wrong one, 2 for a mistake in the call or a missing
package.
"""

from __future__ import annotations

import importlib.util
from typing import Annotated, NoReturn

import typer

import bnfx

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Exact BatchNorm folding for PyTorch compilers.",
    epilog="Example: bnfx demo --quick",
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
    _require("torch", "torchvision", "timm")
    from bnfx.demo import run
    from bnfx.demo.models import cases

    raise typer.Exit(run(cases(quick), repeats=repeats, as_json=as_json))


def _require(*packages: str) -> None:
    """Stop unless ``packages`` are installed. Looks for them without importing them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        _stop(f'bnfx demo needs {", ".join(missing)}: pip install "bnfx[demo]"')


def _stop(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="bnfx")
