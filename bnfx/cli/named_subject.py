"""What a command line names, as ``bnfx bench`` loads it, also in another process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bnfx.bench.on_models.bench_worker import Subject
from bnfx.cli.checkpoints import WeightsFile
from bnfx.cli.inputs import make_inputs
from bnfx.cli.models import load_model
from bnfx.errors import SourceError


def named_subject(
    source: str, shapes: Sequence[str], weights: Path | None, weights_key: str | None
) -> Subject:
    """The model that ``source`` names, as :func:`~bnfx.cli.models.load_model` has it."""
    given = {
        "source": source,
        "shapes": list(shapes),
        "weights": None if weights is None else str(weights),
        "weights_key": weights_key,
    }
    return Subject(source, tuple(shapes), f"{__name__}:load", given)


def load(
    source: str, shapes: Sequence[str], weights: str | None, weights_key: str | None
) -> tuple[nn.Module, tuple[Any, ...]]:
    """The model, and random inputs of the shapes.

    Raises:
        SourceError: for what is no model, or no shape of its inputs.
    """
    file = None if weights is None else WeightsFile(Path(weights), weights_key)
    model = load_model(source, file)
    if not isinstance(model, nn.Module):
        raise SourceError("a .pt2 is what torch.export made of a model: name the model itself")
    inputs, dynamic = make_inputs(shapes, "float32")
    if dynamic is not None:
        raise SourceError("times are of one size: write a number in place of each letter")
    if not inputs:
        raise SourceError("say what the model takes: --input 1x3x224x224")
    return model, inputs
