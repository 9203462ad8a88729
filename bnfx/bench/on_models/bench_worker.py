"""One way to run a model, in its process: it tells of its first call, then takes turns.

``python -m bnfx.bench.on_models.bench_worker JOB`` reads the job, a :class:`Job` as JSON, and
writes a line of JSON for each line that it reads: first by itself what became of its first call,
then for a number of calls their milliseconds, and for ``check`` the error of its answer and the
memory that the process took at most.
"""

from __future__ import annotations

import json
import pkgutil
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from bnfx.bench.on_engines.answers_to_turns import Measured, answer_turns
from bnfx.bench.on_engines.contenders import TWIN
from bnfx.bench.on_engines.exact import error_of, exact_answer
from bnfx.bench.on_models.bench_ways import WAYS, Packed
from bnfx.bench.on_models.twins import levelled_twin_of
from bnfx.bench.zoo.random_norms import randomise

_WARM_UPS = 3


@dataclass(frozen=True)
class Subject:
    """A model, and what it is called with, in a form that another process can load.

    Args:
        name: what it is called in tables.
        shapes: of its inputs, in words.
        loader: ``"package.module:function"``, which gives the model and a tuple of its inputs.
        given: what that is called with; plain data.
    """

    name: str
    shapes: tuple[str, ...]
    loader: str
    given: Mapping[str, Any]

    def load(self) -> tuple[nn.Module, tuple[Any, ...]]:
        """The model, and its inputs; the same numbers in each process."""
        torch.manual_seed(0)
        model, inputs = pkgutil.resolve_name(self.loader)(**self.given)
        return model, tuple(inputs)


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Args:
        way: how the model runs, a name of ``WAYS``, or one behind ``TWIN``.
        subject: the model.
        device: ``"cpu"`` or ``"cuda"``.
    """

    way: str
    subject: Subject
    device: str = "cpu"

    def to_json(self) -> str:
        """What :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Job:
        """The job that :meth:`to_json` wrote."""
        raw = json.loads(text)
        subject = {**raw["subject"], "shapes": tuple(raw["subject"]["shapes"])}
        return Job(raw["way"], Subject(**subject), raw["device"])


def load(job: Job) -> tuple[nn.Module, Any]:
    """The model, as engines take it, and its input; BatchNorms that are identities are random."""
    model, inputs = job.subject.load()
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
    job = Job.from_json(sys.argv[1])

    def prepare() -> Measured:
        model, x = load(job)
        if job.way.startswith(TWIN):
            model = levelled_twin_of(model, x)
        expected, loaded = exact_answer(model, x), _memory()
        way = WAYS[job.way.removeprefix(TWIN)]
        return Measured(
            lambda: way(model, x),
            x,
            lambda answer: error_of(answer, expected),
            finish=lambda: _finish(job),
            more=lambda: {"memory": _memory() - loaded},
        )

    answer_turns(prepare, _WARM_UPS)


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
