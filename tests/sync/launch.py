"""Starts gloo processes that run many cases each: starting one takes seconds, a case little."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]


def run_cases(
    module: str, world: int, *names: str, timeout: float = 900, **environment: str
) -> list[str]:
    """Run the functions ``case_*`` of ``tests/sync/<module>.py`` on ``world`` ranks, in order.

    Several modules are joined by ``+``.

    Each rank runs every case; the first that fails ends all. Raises with the ranks' output then.

    Args:
        names: of the cases to run; all of them if none is given.

    Returns:
        What each rank printed: how long each case took, among other things.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-W",
            "error::UserWarning:bnfx",
            "-m",
            "sync.rank",
            module,
            str(world),
        ]
        # Inductor's pool of workers would import torch once more for each rank.
        own = {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", **environment}
        own["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        own["SYNC_RENDEZVOUS"] = str(Path(folder) / "again")
        outputs = [(Path(folder) / f"output{rank}").open("w+") for rank in range(world)]
        processes = [
            subprocess.Popen(
                [*command, str(rank), str(Path(folder) / "rendezvous"), *names],
                env={**os.environ, **own},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for rank, output in enumerate(outputs)
        ]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            codes = [process.poll() for process in processes]
            if None not in codes:
                break
            time.sleep(0.05)
        said = []
        for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
            process.kill()
            process.wait()
            output.seek(0)
            said.append(f"rank {rank}: {output.read()[-6000:]}")
            output.close()
        # A rank that fails takes the others along: what they say is no news.
        telling = [
            text for text in said if "closed by peer" not in text and "Error" in text
        ] or said
        assert codes == [0] * world, f"exit codes {codes}\n" + "\n".join(telling)
        return said
