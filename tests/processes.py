"""Child processes that find torch imported already: importing it is most of what short ones do.

They are forked from one process that has imported modules, and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
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
    errors: Path | None = None,
) -> BaseProcess:
    """``python WORDS``, with what it prints in a file: ``-m MODULE``, ``-c CODE`` or ``SCRIPT``."""
    place, streams = str(folder or Path.cwd()), (str(output), str(errors or output))
    arguments = (list(words), streams, place, {**os.environ, **(environment or {})})
    process = _SERVER.Process(target=_run, args=arguments, daemon=False)
    process.start()
    return process


def run(words: Sequence[str], folder: Path, timeout: float = 900) -> tuple[int | None, str]:
    """The exit status, and what it printed."""
    output = folder / "printed"
    return _status(start(words, output, folder), timeout), output.read_text()


def run_apart(
    words: Sequence[str], folder: Path, output: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` would, with both streams apart; ``output`` may be a device."""
    streams = [folder.with_name(f"{folder.name}.{stream}") for stream in ("out", "err")]
    process = start(words, output or streams[0], folder, environment, errors=streams[1])
    status = _status(process, 900)
    assert status is not None
    printed = streams[0].read_text() if output is None else ""
    return subprocess.CompletedProcess(list(words), status, printed, streams[1].read_text())


def _status(process: BaseProcess, timeout: float) -> int | None:
    """The exit status, once it has ended or the time is up."""
    process.join(timeout)
    process.kill()
    process.join()
    return process.exitcode


def _run(
    words: list[str], streams: tuple[str, str], folder: str, environment: dict[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream, path in enumerate(streams, start=1):
        again = stream == 2 and path == streams[0]
        os.dup2(1 if again else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    sys.stdout.flush()
