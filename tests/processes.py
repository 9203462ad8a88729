"""Child processes that find torch imported already: importing it is most of what short ones do.

They are forked from one process that has imported modules, and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("torch", "torch.distributed.fsdp", "torch.export._trace", "torchvision"),
        *("torch._inductor.compile_fx", "torch._inductor.codegen.cpp_wrapper_gpu"),
        *("torch._inductor.fx_passes.joint_graph", "torch._inductor.fx_passes.post_grad"),
        *("torch._dynamo.backends.inductor", "setuptools", "torch.testing"),
    ]
)


def start(
    words: Sequence[str],
    output: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """``python WORDS``, with what it prints in a file: ``-m MODULE ...`` or ``SCRIPT ...``."""
    place = str(folder or Path.cwd())
    arguments = (list(words), str(output), place, {**os.environ, **(environment or {})})
    process = _SERVER.Process(target=_run, args=arguments, daemon=False)
    process.start()
    return process


def run(words: Sequence[str], folder: Path, timeout: float = 900) -> tuple[int | None, str]:
    """The exit status, and what it printed."""
    output = folder / "printed"
    process = start(words, output, folder)
    process.join(timeout)
    process.kill()
    process.join()
    return process.exitcode, output.read_text()


def _run(words: list[str], output: str, folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    sys.stdout.flush()
