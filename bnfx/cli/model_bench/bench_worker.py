"""One way to run a user's model, in its process: it tells of its first call, then takes turns.

``python -m bnfx.cli.model_bench.bench_worker JOB`` reads the job, a :class:`Job` as JSON, and
writes a line of JSON for each line that it reads: first by itself what became of its first call,
then for a number of calls their milliseconds, and for ``check`` the error of its answer and the
memory that the process took at most.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from bnfx.bench.on_engines.answers_to_turns import Measured, answer_turns
from bnfx.bench.on_engines.contenders import TWIN
from bnfx.bench.weights_speed import twin_of
from bnfx.bench.zoo.random_norms import randomise
from bnfx.cli.checkpoints import WeightsFile
from bnfx.cli.inputs import make_inputs
from bnfx.cli.model_bench.bench_ways import WAYS, Packed
from bnfx.cli.models import load_model
from bnfx.errors import SourceError
from bnfx.folding.verify import relative_error

_WARM_UPS = 3


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Args:
        way: how the model runs.
        source, weights, weights_key: the model, as the command line names it.
        shapes: of its inputs.
        device: ``"cpu"`` or ``"cuda"``.
    """

    way: str
    source: str
    weights: str | None
    weights_key: str | None
    shapes: tuple[str, ...]
    device: str


def load(job: Job) -> tuple[nn.Module, Any]:
    """The model, as engines take it, and its input; the same numbers in each process.

    Raises:
        SourceError: for what is no model, or no shape of its inputs.
    """
    torch.manual_seed(0)
    weights = None if job.weights is None else WeightsFile(Path(job.weights), job.weights_key)
    model = load_model(job.source, weights)
    if not isinstance(model, nn.Module):
        raise SourceError("a .pt2 is what torch.export made of a model: name the model itself")
    inputs, dynamic = make_inputs(job.shapes, "float32")
    if dynamic is not None:
        raise SourceError("times are of one size: write a number in place of each letter")
    if not inputs:
        raise SourceError("say what the model takes: --input 1x3x224x224")
    packed = Packed(model, len(inputs) > 1).eval().requires_grad_(False)
    given: Any = inputs if len(inputs) > 1 else inputs[0]
    if is_fresh(packed):
        randomise(packed, given)
    return packed.to(job.device), pytree.tree_map(lambda each: each.to(job.device), given)


def is_fresh(model: nn.Module) -> bool:
    """Whether its BatchNorms are as they were built: identities, which prove nothing of a fold."""
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    means = [norm.running_mean for norm in norms if norm.running_mean is not None]
    return bool(norms) and not any(map(torch.any, means))


def main() -> None:
    raw = json.loads(sys.argv[1])
    job = Job(**{**raw, "shapes": tuple(raw["shapes"])})

    def prepare() -> Measured:
        model, x = load(job)
        if job.way.startswith(TWIN):
            model = twin_of(model)
        expected, loaded = _exact(model, x), _memory()
        way = WAYS[job.way.removeprefix(TWIN)]
        return Measured(
            lambda: way(model, x),
            x,
            lambda answer: _error(answer, expected),
            finish=lambda: _finish(job),
            more=lambda: {"memory": _memory() - loaded},
        )

    answer_turns(prepare, _WARM_UPS)


def _exact(model: nn.Module, x: Any) -> tuple[torch.Tensor, ...]:
    """The model's answer in float64."""
    wide = copy.deepcopy(model).double()
    widened = pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, x)
    answer = (each.cpu() for each in wide(widened))
    return tuple(each.float() if each.is_floating_point() else each for each in answer)


def _error(answer: Any, expected: tuple[torch.Tensor, ...]) -> float:
    leaves = pytree.tree_leaves(answer)
    return relative_error(tuple(each.detach().cpu() for each in leaves), expected)


def _finish(job: Job) -> None:
    """Wait for the device."""
    if job.device != "cpu":
        torch.cuda.synchronize()


def _memory() -> int:
    """The bytes that the process took at most, on the CPU."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    main()
