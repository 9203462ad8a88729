"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME, a Python file and a function of it that makes the model "
        "(net.py:make), or an exported program (net.pt2).",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="A state dict, .pt or .safetensors. Pickled code is never run."),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(help="The checkpoint's key that holds the state dict, if it is no usual one."),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Shape of an input: 1x3x224x224; Nx3x224x224 leaves the first dimension open; "
        "1x16:int64 has a dtype of its own. Once for each.",
    ),
]
Dtype = Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")]
Html = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        metavar="PAGE.html",
        help="Also write the report as a page, with the graph before and after.",
    ),
]
ModelExplorer = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        metavar="GRAPHS.json",
        help="Also write both graphs for Google's Model Explorer, verdicts beside them.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
