"""One contender in its process: it answers for its first call, then takes its turns.

``python -m bnfx.bench.on_engines.turns CONTENDER MODEL BATCH`` writes a line of JSON for each line
that it reads: first by itself what became of its first calls, then for a number of calls their
milliseconds, and for ``check`` the error of its answer.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfx.bench.on_engines.answer_lines import answer_lines
from bnfx.bench.on_engines.bench_models import load
from bnfx.bench.on_engines.contenders import CONTENDERS, TWIN, twin
from bnfx.errors import InnerWarning
from bnfx.folding.verify import relative_error

WARM_UPS = 3


def main() -> None:
    contender, name, batch = sys.argv[1:]
    tell = answer_lines()
    try:
        with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InnerWarning)
            model, x = load(name, int(batch))
            if contender.startswith(TWIN):
                model = twin(model, x)
            expected = _exact(model, x)
            start = time.perf_counter()
            run = CONTENDERS[contender.removeprefix(TWIN)](model, x)
            run(x)
            first = time.perf_counter() - start
            for _ in range(WARM_UPS):
                answer = run(x)
            told = [str(each.message) for each in caught if each.category is InnerWarning]
            tell(first_s=first, error=_error(answer, expected), note="; ".join(told))
            for line in sys.stdin:
                if line.strip() == "check":
                    tell(error=_error(run(x), expected))
                else:
                    tell(ms=[_ms(run, x) for _ in range(int(line))])
    except Exception as error:
        tell(failed=f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def _exact(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The model's answer in float64."""
    wide = copy.deepcopy(model).double()
    return tuple(each.float() for each in wide(x.double()))


def _error(answer: Any, expected: tuple[torch.Tensor, ...]) -> float:
    return relative_error(tuple(pytree.tree_leaves(answer)), expected)


def _ms(run: Any, x: torch.Tensor) -> float:
    start = time.perf_counter()
    run(x)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
