"""DDP's graph splitter compiles with fake parameters: the fold waits for the first real call."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import start

ENV = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}


@pytest.mark.parametrize("inner", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_train_and_evaluate_under_ddp(tmp_path: Path, inner: str) -> None:
    worker = str(Path(__file__).with_name("ddp_worker.py"))
    outputs = [tmp_path / f"output{rank}" for rank in range(2)]
    ranks = [
        start([worker, str(rank), str(tmp_path / "rendezvous"), inner], output, environment=ENV)
        for rank, output in enumerate(outputs)
    ]
    for rank in ranks:
        rank.join(300)
        rank.kill()
    printed = "".join(output.read_text()[-3000:] for output in outputs)
    assert [rank.exitcode for rank in ranks] == [0, 0], printed
