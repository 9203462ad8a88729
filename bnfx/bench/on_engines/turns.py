"""One contender in its process: it answers for its first call, then takes its turns.

``python -m bnfx.bench.on_engines.turns CONTENDER MODEL BATCH`` writes a line of JSON for each line
that it reads: first by itself what became of its first calls, then for a number of calls their
milliseconds, and for ``check`` the error of its answer.
"""

from __future__ import annotations

import sys

from bnfx.bench.on_engines.answers_to_turns import Measured, answer_turns
from bnfx.bench.on_engines.bench_models import load
from bnfx.bench.on_engines.contenders import CONTENDERS, TWIN
from bnfx.bench.on_engines.exact import error_of, exact_answer
from bnfx.bench.on_models.twins import levelled_twin_of

WARM_UPS = 3


def main() -> None:
    contender, name, batch = sys.argv[1:]

    def prepare() -> Measured:
        model, x = load(name, int(batch))
        if contender.startswith(TWIN):
            model = levelled_twin_of(model, x)
        expected = exact_answer(model, x)
        prepared = CONTENDERS[contender.removeprefix(TWIN)]
        return Measured(lambda: prepared(model, x), x, lambda answer: error_of(answer, expected))

    answer_turns(prepare, WARM_UPS)


if __name__ == "__main__":
    main()
