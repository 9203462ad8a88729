"""Runs the command on files, and trips over anything that runs, imports, writes or loads.

``python canary.py RESULTS FILE...`` writes, for each file, its exit status, what it said on
stderr, and the audit events that nothing of bnfx's own causes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
"""
_FORBIDDEN = (
    *("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.chmod", "os.truncate"),
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
    *("subprocess.Popen", "ctypes.dlopen", "ctypes.dlsym", "pickle.find_class", "pty.spawn"),
    *("socket.connect", "socket.bind", "shutil.copyfile", "code.__new__", "function.__new__"),
)
UNUSUAL = {"this", "tabnanny"}  # what hostile files import, and nothing else
tripped: list[str] = []
watching = False
OWN: set[str] = set()


def hook(event: str, arguments: tuple) -> None:
    if not watching:
        return
    if event == "open":
        path, mode, flags = (*arguments, None, None)[:3]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if writes and path != "/dev/null":
            tripped.append(f"open {path} {mode}")
    elif event == "import":
        if str(arguments[0]).partition(".")[0] not in KNOWN:
            tripped.append(f"import {arguments[0]}")
    elif event == "exec":
        # torch writes and runs code of its own; a hostile file's has this word in it.
        code: Any = arguments[0]
        if "canary" in f"{code.co_names} {code.co_consts}":
            tripped.append(f"exec {code}")
    elif event in _FORBIDDEN:
        tripped.append(f"{event} {str(arguments)[:80]}")


def note_imports() -> None:
    """importlib.import_module raises no event."""
    for name in UNUSUAL & sys.modules.keys():
        tripped.append(f"import {name}")
        del sys.modules[name]


def run(words: list[str]) -> dict:
    """One call of the command, in this process."""
    global watching
    from typer.testing import CliRunner

    from bnfx.cli import app

    tripped.clear()
    watching = True
    result = CliRunner().invoke(app, words)
    watching = False
    note_imports()
    if words[0] == "fold":  # it writes a folder of its own, and out.pt2
        tripped[:] = [event for event in tripped if "/.bnfx-" not in event]
    return {
        "status": result.exit_code,
        "stderr": result.stderr,
        "raised": repr(result.exception),
        "tripped": [event for event in tripped if event not in OWN],
    }


def run_as_torch_does(name: str) -> dict:
    """The same file without bnfx, to see that the canary trips."""
    global watching
    import torch

    tripped.clear()
    watching = True
    with contextlib.suppress(Exception):
        if name.endswith(".pt2"):
            torch.export.load(name).module()
        else:
            torch.load(name, weights_only=False)
    watching = False
    note_imports()
    return {"status": 0, "stderr": "", "raised": "", "tripped": list(tripped)}


def words_of(name: str) -> list[str]:
    if name.startswith("fold"):
        return ["fold", name, "out.pt2"]
    if name.endswith(".pt2"):
        return ["explain", name]
    return ["explain", "net.py:make", "--input", "1x3x8x8", "--weights", name]


if __name__ == "__main__":
    results, *names = sys.argv[1:]
    if not names:
        names = Path("names").read_text().split()
    Path("net.py").write_text(NET)
    sys.dont_write_bytecode = True
    import torchvision  # noqa: F401  what a user may have loaded

    KNOWN = {*sys.stdlib_module_names, *(name.partition(".")[0] for name in sys.modules), "net"}
    KNOWN -= UNUSUAL
    sys.addaudithook(hook)
    # Whatever is loaded late, is now.
    good = ("good.pt2", "fold.pt2", "good.pt", "good.safetensors")
    for name in () if "CANARY_TORCH" in os.environ else good:
        for _ in range(2):
            first = run(words_of(name))
            assert first["status"] == 0, first
            OWN.update(first["tripped"])  # torch looks for a GPU, and makes a folder for its cache
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Path(results).open("w") as out:
        for name in names:
            done = run_as_torch_does(name) if "CANARY_TORCH" in os.environ else run(words_of(name))
            row = {"name": name, **done}
            row["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
            out.write(json.dumps(row) + "\n")
            out.flush()
