"""Starts gloo processes that run many cases each: starting one takes seconds, a case little."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from processes import start


def run_cases(
    module: str, world: int, *names: str, timeout: float = 900, **environment: str
) -> list[str]:
    """Run the functions ``case_*`` of ``tests/sync/<module>.py`` on ``world`` ranks, in order.

    Several modules are joined by ``+``.

    Each rank runs every case; the first that fails ends all. Raises with the ranks' output then.

    Args:
        names: of the cases to run; all of them if none is given. ``"not NAME"`` leaves one out.

    Returns:
        What each rank printed: how long each case took, among other things.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "sync.rank", module, str(world)]
        # Inductor's pool of workers would import torch once more for each rank.
        own = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", **environment}
        own["SYNC_RENDEZVOUS"] = str(Path(folder) / "again")
        outputs = [Path(folder) / f"output{rank}" for rank in range(world)]
        processes = [
            start(
                [*command, str(rank), str(Path(folder) / "rendezvous"), *names],
                output,
                environment=own,
            )
            for rank, output in enumerate(outputs)
        ]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            codes = [process.exitcode for process in processes]
            if None not in codes:
                break
            time.sleep(0.05)
        said = []
        for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
            process.kill()
            process.join()
            said.append(f"rank {rank}: {output.read_text()[-6000:]}")
        # A rank that fails takes the others along: what they say is no news.
        telling = [
            text for text in said if "closed by peer" not in text and "Error" in text
        ] or said
        assert codes == [0] * world, f"exit codes {codes}\n" + "\n".join(telling)
        return said
