"""Compiles the C++ code, and keeps the library on disk, one for each torch, Python and source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import torch

SOURCES = tuple(Path(__file__).with_name(name) for name in ("check.cpp", "finite.cpp", "watch.cpp"))
HEADER = Path(__file__).with_name("parts.h")
NAME = "bnfx_native"
# Seconds after which a build counts as dead: whoever began it did not live to the end.
PATIENCE = 600.0
# Seconds after which a build that failed is tried again.
RETRY = 86400.0


def cache_folder() -> Path:
    """Where libraries are kept: ``BNFX_CACHE_DIR``, or ``bnfx`` in the user's cache."""
    chosen = os.environ.get("BNFX_CACHE_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnfx"


def cached_library() -> Path:
    """Where the library for this torch, Python and source is, or will be.

    Raises:
        PermissionError: if someone else could put a library there.
    """
    folder = cache_folder() / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written to by others: no code is loaded from it")
    abi = (torch.__version__, torch.__file__, sysconfig.get_config_var("SOABI"), str(_flags()))
    sources = b"".join(each.read_bytes() for each in (HEADER, *SOURCES))
    key = hashlib.sha256("\n".join(map(str, abi)).encode() + sources).hexdigest()
    return folder / f"{NAME}-{key[:20]}.so"


def claim_of(library: Path) -> Path:
    return library.with_suffix(".building")


def log_of(library: Path) -> Path:
    """What the compiler said; there after a build that failed."""
    return library.with_suffix(".log")


def why_not(library: Path) -> str:
    """Why a build came to nothing."""
    try:
        lines = log_of(library).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    error = next((line for line in lines if "error" in line.lower()), "no library came of it")
    return f"the build failed, {log_of(library)} has all of it: {error}"


def start(library: Path, awaited: bool = False) -> subprocess.Popen[bytes] | None:
    """Start to build it; ``None`` if somebody else does already.

    Args:
        library: from :func:`cached_library`.
        awaited: whether somebody waits for it. Otherwise it yields to all else on the machine.

    Raises:
        FileNotFoundError: without a compiler.
        OSError: where the cache cannot be written to.
    """
    compiler = find_compiler()
    if compiler is None:
        raise FileNotFoundError("no C++ compiler: install g++, or set CXX")
    claim, log_ = claim_of(library), log_of(library)
    if log_.exists() and log_.stat().st_size and time.time() - log_.stat().st_mtime < RETRY:
        raise RuntimeError(f"{why_not(library)} (delete it to try again today)")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        if time.time() - claim.stat().st_mtime < PATIENCE:
            return None
        claim.touch()
    made = library.with_suffix(f".{os.getpid()}.tmp")
    nice = [] if awaited or not shutil.which("nice") else ["nice", "-n", "19"]
    script = _BUILD if awaited else _YIELD + _BUILD
    command = [
        *nice,
        *compiler.split(),
        *_flags(),
        *map(str, SOURCES),
        "-o",
        str(made),
        *_libraries(),
    ]
    # A shell of its own puts the library in its place, even if this process ends before.
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "bnfx", *map(str, (made, library, claim, log_)), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


# Where Linux shares time among sessions, ``nice`` counts only within one; this is for the session:
# a tenth of what another gets, with which it is done within PATIENCE.
_YIELD = "echo 10 2>/dev/null > /proc/$$/autogroup"
_BUILD = """
made=$1; library=$2; claim=$3; log=$4; shift 4
if "$@" > "$log" 2>&1 && mv "$made" "$library"; then rm -f "$log"; status=0
else status=1; echo "exit status $status" >> "$log"; rm -f "$made"; fi
rm -f "$claim"; exit $status
"""


def find_compiler() -> str | None:
    """The C++ compiler: ``CXX``, or the first one that is there."""
    chosen = os.environ.get("CXX", "").strip()
    if chosen:
        return chosen if shutil.which(chosen.split()[0]) else None
    return next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def _flags() -> list[str]:
    root = Path(torch.__file__).parent / "include"
    folders = [sysconfig.get_path("include"), root, root / "torch/csrc/api/include"]
    abi = int(getattr(torch._C, "_GLIBCXX_USE_CXX11_ABI", True))
    shared = (
        ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    )
    return [
        *("-std=c++20", "-O2", "-fPIC", *shared, f"-D_GLIBCXX_USE_CXX11_ABI={abi}"),
        *(f"-I{folder}" for folder in folders),
    ]


def _libraries() -> list[str]:
    # torch has loaded them, so no path to them is needed later.
    lib = Path(torch.__file__).parent / "lib"
    return [f"-L{lib}", "-lc10", "-ltorch_cpu", "-ltorch_python"]
