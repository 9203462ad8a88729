"""Runs folded models out of the process, or on another runtime."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from processes import run_apart
from support import relative
from torch import nn
from torch.utils import _pytree as pytree

BLOCKED = Path(__file__).with_name("export") / "blocked.py"


def worst(actual: Any, expected: Any) -> float:
    """The largest relative error of any tensor."""
    ours, theirs = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    return max(relative(a, b) for a, b in zip(ours, theirs, strict=True))


def package_error(package: Path, model: nn.Module, x: torch.Tensor) -> float:
    """The package's relative error in a process without bnfx."""
    with torch.no_grad():
        answers = {"inputs": [x], "expected": pytree.tree_leaves(model(x))}
    torch.save(answers, package.with_suffix(".pt"))
    words = (str(BLOCKED), str(package), str(package.with_suffix(".pt")))
    run = run_apart(words, package.parent)
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


def run_onnx(folded: Any, x: torch.Tensor, path: Path) -> tuple[list[str], list[torch.Tensor]]:
    """Ops in the file, and onnxruntime's answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and onnxscript's own
        args = (x,) if isinstance(folded, nn.Module) else ()
        torch.onnx.export(folded, args, str(path), dynamo=True, verbose=False)
    file = onnx.load(str(path))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [node.op_type for node in file.graph.node], list(map(torch.from_numpy, answers))
