"""What folding costs in bfloat16 and float16, beside Inductor's freezing.

Run as ``python -m bnfx.bench.on_models.half_precision [MODEL ...] [--dtype bfloat16 float16]``. The
exact answer is that of the same weights (those of the narrow dtype) in float64, so the errors are
those of the arithmetic alone: of PyTorch, of torch.fx's fold, of Inductor, of its freezing (these
two fold in the narrow dtype), and of bnfx, which folds in float64 and rounds once. ``fx-fuse`` and
``bnfx-eager`` run in PyTorch, without a compiler. Each error is relative to the largest number of
the answer. The models are those that PyTorch's trackers name for errors after folding
(pytorch#145623, pytorch#120545), with random weights and BatchNorms that are no identities.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Mapping, Sequence

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch.fx.experimental.optimization import fuse

from bnfx.bench.on_engines.contenders import CONTENDERS, Prepare
from bnfx.bench.zoo.random_norms import randomise
from bnfx.folding.verify import relative_error

MODELS = ("lcnet_050", "inception_v3", "mnasnet_100", "ghostnet_100", "hardcorenas_a")
WAYS: Mapping[str, Prepare] = {
    "eager": CONTENDERS["eager"],
    "fx-fuse": lambda model, x: fuse(model),
    "bnfx-eager": lambda model, x: torch.compile(
        model, backend="bnfx", dynamic=False, options={"inner": "eager"}
    ),
    "inductor": CONTENDERS["inductor"],
    "freezing": CONTENDERS["freezing"],
    "bnfx": CONTENDERS["bnfx"],
}


def errors(name: str, dtype: torch.dtype, size: int, ways: Sequence[str]) -> dict[str, float]:
    """The relative error of each way to run a model of timm in ``dtype``."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    x = torch.randn(2, 3, size, size)
    randomise(model, x)
    model, x = model.to(dtype), x.to(dtype)
    found: dict[str, float] = {}
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        for way in ways:
            torch._dynamo.reset()
            answer = WAYS[way](copy.deepcopy(model), x)(x)
            found[way] = relative_error(answer.double(), exact)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="of timm")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--size", type=int, default=128, help="inception_v3 takes 75 and up")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    chosen = parser.parse_args()
    table = Table("model", "dtype", *chosen.ways)
    for name in chosen.models:
        for dtype in chosen.dtype:
            found = errors(name, getattr(torch, dtype), chosen.size, chosen.ways)
            row = (name, dtype, *(f"{found[way]:.1e}" for way in chosen.ways))
            print(*row, flush=True)  # an interrupted run has its rows
            table.add_row(*row)
    Console(width=100).print(table)
    Console().print(f"torch {torch.__version__}; load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
