"""Models of the zoo with an engine behind bnfx: who answers, and how far from exact numbers.

Run as ``python -m bnfx.bench.on_engines.zoo_in_engines [--engine NAME ...] [--step N] [--only PART
...]``. Each model is compiled by :func:`bnfx.compile` in float32, with BatchNorms that are no
identities, called three times, and compared with itself in float64. Printed are the error of the
engine's answer and of PyTorch's own, and what the engine did not take. Exits with status 1 if an
answer is further off than rounding explains, or anything is raised.
"""

from __future__ import annotations

import argparse
import gc
import sys
import warnings
from collections.abc import Iterator

import torch

import bnfx
from bnfx.bench.on_engines.exact import allowed_error, error_of, exact_answer
from bnfx.bench.zoo.catalogue import ZooModel, entries
from bnfx.bench.zoo.random_norms import randomise
from bnfx.bench.zoo.run import select
from bnfx.errors import InnerWarning
from bnfx.inner.auto.trial import installed

TELLING = 1e-2  # of PyTorch's own error, below which it tells of an engine's


def errors(entry: ZooModel, engines: list[str]) -> Iterator[tuple[str, float, float, str]]:
    """For each engine: its name, its answer's error, PyTorch's error, and what it warned of."""
    torch.manual_seed(0)
    model = entry.load().eval()
    x = torch.randn(entry.shape)
    with torch.no_grad():
        randomise(model, x)
        expected = exact_answer(model, x)
        eagers = error_of(model(x), expected)
        if not eagers < TELLING:
            raise ValueError(f"PyTorch's own answer is off by {eagers:.0e}: it proves nothing")
        for engine in engines:
            torch._dynamo.reset()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", InnerWarning)
                run = bnfx.compile(model, dynamic=False, options={"inner": engine})
                for _ in range(3):  # the first answer of each size is PyTorch's
                    answer = run(x)
            told = [str(w.message) for w in caught if issubclass(w.category, InnerWarning)]
            yield engine, error_of(answer, expected), eagers, "; ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bnfx.bench.on_engines.zoo_in_engines")
    parser.add_argument("--engine", nargs="+", choices=installed(), default=[*installed()])
    parser.add_argument("--step", type=int, default=1, help="take each STEP-th model only")
    parser.add_argument("--only", nargs="+", default=())
    chosen = parser.parse_args()
    models = [each for each in select(entries(), chosen.only) if not each.left_out]
    wrong, whole, answers = 0, 0, 0
    for entry in models[:: chosen.step]:
        try:
            for engine, error, eagers, told in errors(entry, chosen.engine):
                bad = not error <= allowed_error(eagers)
                wrong, answers, whole = wrong + bad, answers + 1, whole + (not told)
                verdict = "WRONG" if bad else "right"
                told = told.splitlines()[0] if told else ""
                print(f"{entry.name}, {engine}: {verdict}, {error:.0e} ({eagers:.0e}) {told}")
        except Exception as failure:
            wrong += 1
            print(f"{entry.name}: RAISED {failure!r}")
        sys.stdout.flush()
        gc.collect()
    print(f"{answers} answers, {whole} of a whole graph in the engine, {wrong} wrong or raised")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
