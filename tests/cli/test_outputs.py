"""Files that cannot be written: one line, exit status 2, nothing partial, the old file whole."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import run_apart

from bnfx.report.files import whole, whole_stream

NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3))
"""
# A package that is larger than what compilers write to temporary files, on the way to it.
LARGE_NET = """
from torch import nn
from torch._inductor import config
config.aot_inductor.precompile_headers = False
def make():
    return nn.Sequential(nn.Conv2d(3, 512, 3), nn.BatchNorm2d(512), nn.Conv2d(512, 1024, 3))
"""
# Several calls in one process, as importing torch takes most of the time of one.
CALLS = """
import resource, shlex, sys
from pathlib import Path
from bnfx.cli import app
for line in sys.argv[1:]:
    limit, _, words = line.partition(" ")
    # The hard limit stays, so that the next call can have more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        app(shlex.split(words))
    except SystemExit as end:
        print(f"status {end.code}", file=sys.stderr)
"""


def calls(
    folder: Path, *lines: str, net: str = NET, **environment: str
) -> subprocess.CompletedProcess[str]:
    (folder / "net.py").write_text(net)
    return run_apart(["-c", CALLS, *lines], folder, **environment)


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """The form of a full disk that needs no disk: 2 KiB fit, the weights do not."""
    names = ("old.pt2", "old.onnx", "new.pt2", "new.onnx")
    for name in names[:2]:
        (tmp_path / name).write_text("as it was")
    fold = "2048 fold net.py:make {} --input 1x3x8x8"
    run = calls(tmp_path, *(fold.format(name) for name in names))
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    lines = run.stderr.strip().splitlines()
    assert lines[1::2] == ["status 2"] * len(names), run.stderr
    for line, name in zip(lines[::2], names, strict=True):
        assert f"{name} cannot be written" in line
        assert "File too large" in line
    assert (tmp_path / "old.pt2").read_text() == (tmp_path / "old.onnx").read_text() == "as it was"
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"net.py", "old.pt2", "old.onnx"}


@pytest.mark.heavy
def test_a_package_on_a_full_disk(tmp_path: Path) -> None:
    """Whether the package does not fit, or not even what the compiler writes before it."""
    fold = "fold net.py:make {}.pt2 --aot --input 1x3x8x8"
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    whole_one = calls(tmp_path, f"-1 {fold.format('whole')}", net=LARGE_NET, **caches)
    assert "status 0" in whole_one.stderr, whole_one.stderr
    size = (tmp_path / "whole.pt2").stat().st_size
    for limit, cache in ((size - 512, "cache"), (2048, "empty")):
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cache)}
        run = calls(tmp_path, f"{limit} {fold.format('new')}", net=LARGE_NET, **caches)
        assert run.stdout == ""
        line, status = run.stderr.strip().splitlines()
        assert status == "status 2", run.stderr
        assert line.startswith("bnfx fold: ")
        assert "File too large" in line or (limit == 2048 and "C++ compile error" in line)
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__", "cache", "empty"}
    assert left == {"net.py", "whole.pt2"}


def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    run = calls(tmp_path, "-1 fold net.py:make /proc/out.pt2 --input 1x3x8x8")
    line, status = run.stderr.strip().splitlines()
    assert status == "status 2"
    assert "/proc/out.pt2 cannot be written" in line


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """As ``/dev/null`` could be, by root, at the end of a symbolic link."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe.pt2").symlink_to("pipe")
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.pt2").mkdir()
    names = ("to_pipe.pt2", "pipe.onnx", "folder.pt2")
    run = calls(tmp_path, *(f"-1 fold net.py:make {name} --input 1x3x8x8" for name in names))
    lines = run.stderr.strip().splitlines()
    assert lines[1::2] == ["status 2"] * 3, run.stderr
    for line in lines[:4:2]:
        assert "cannot be written, and is as it was: it is there, and is not a plain file" in line
    assert "folder.pt2 is a folder" in lines[4]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "pipe.onnx").is_fifo()


INTERRUPTED = """
import itertools, os, signal, sys, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from pathlib import Path
from bnfx.report.files import whole_stream

def trace(frame, event, _):
    global left
    if not frame.f_code.co_filename.endswith("report/files.py"):
        return None
    frame.f_trace_opcodes = True
    left -= event == "opcode"
    if left == 0 and event == "opcode":
        os.kill(os.getpid(), signal.SIGINT)
    return trace

def write():
    sys.settrace(trace)
    with whole_stream(out) as stream:
        torch.save(torch.ones(3), stream)
    sys.settrace(None)

out, interrupts, left = Path("out"), 0, 0
write()  # Python 3.12 traces the opcodes of a function from its second run on
for number in itertools.count(1, 5):
    out.write_text("old")
    left = number
    try:
        write()
    except KeyboardInterrupt:
        sys.settrace(None)
        interrupts += 1
    assert out.read_bytes() == b"old" or torch.load(out).sum() == 3
    if left > 0:
        break
assert torch.load(out).sum() == 3
print(interrupts, "interrupts")
assert interrupts > 300  # one may strike in a finaliser, where Python itself swallows it
"""


def test_an_interrupt_at_each_step_of_writing(tmp_path: Path) -> None:
    """In the functions that the writer in C++ calls, an exception would end the process."""
    run = run_apart(["-c", INTERRUPTED], tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    print(run.stdout)
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".bnfx-")]
    assert left == ["out"]


def test_a_full_terminal(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    words = ("-m", "bnfx.cli", "explain", "net.py:make", "--input", "1x3x8x8")
    run = run_apart(words, tmp_path, Path("/dev/full"))
    assert run.returncode == 2
    (line,) = run.stderr.strip().splitlines()
    assert "No space left on device" in line


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """It is killed while it writes; the folder of one that still writes stays."""
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom bnfx.report.files import whole\n"
        "with whole(Path('out')) as path:\n"
        "    path.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    host = socket.gethostname()
    kept = [
        tmp_path / f".bnfx-{host}-{os.getppid()}-a",
        tmp_path / f".bnfx-{host}-x",
        tmp_path / f".bnfx-elsewhere-{2**22 + 1}-a",
        tmp_path / ".bnfxrc",
    ]
    for folder in kept:
        folder.mkdir()
    with whole(tmp_path / "out") as path:
        path.write_text("whole")
    assert (tmp_path / "out").read_text() == "whole"
    assert set(tmp_path.iterdir()) == {tmp_path / "out", *kept}


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    """Its target is replaced, in the target's folder."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "net.pt2").write_text("old")
    (here / "link.pt2").symlink_to(there / "net.pt2")
    (here / "dangling.pt2").symlink_to("../there/new.pt2")
    for name in ("link.pt2", "dangling.pt2"):
        with whole(here / name) as path:
            assert path.parent.parent == there
            path.write_text("new")
        assert (here / name).is_symlink()
        assert (here / name).read_text() == "new"
    with contextlib.suppress(ZeroDivisionError), whole(here / "link.pt2") as path:
        path.write_text("half")
        _ = 1 / 0
    assert (there / "net.pt2").read_text() == "new"
    assert sorted(p.name for p in there.iterdir()) == ["net.pt2", "new.pt2"]
    (here / "round.pt2").symlink_to("round.pt2")
    with pytest.raises(OSError, match=r"round\.pt2"), whole(here / "round.pt2") as path:
        path.write_text("never")


def test_a_failing_stream_says_so_at_its_end(tmp_path: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        with whole_stream(tmp_path / "out") as file:
            assert file.write(b"first") == 5
            resource.setrlimit(resource.RLIMIT_FSIZE, (8, old[1]))
            assert file.write(torch.zeros(4).numpy()) == 16, "what a writer in C++ is to see"

    try:
        with pytest.raises(OSError, match="File too large"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []
