"""Loads the native check once it is there, and has it built if it is not.

A build takes some ten seconds of an idle core, once for each version of torch, Python and bnfx; no
call waits for it. Whatever goes wrong (no compiler, a cache that cannot be written to, a library
that does not load) ends in a sentence, :func:`state`, and Python goes on.

``BNFX_NATIVE`` in the environment: ``0`` never builds or loads it, ``1`` waits for it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnfx.native.cxx import NAME, PATIENCE, cached_library, claim_of, start, why_not

log = logging.getLogger("bnfx")


@dataclass(frozen=True)
class State:
    """What became of the native check.

    Args:
        module: the loaded library, if it is there.
        sentence: how it stands, for people.
        final: whether that can't change in this process.
    """

    module: Any = None
    sentence: str = "not asked for yet"
    final: bool = False


_state = State()
_lock = threading.Lock()
_asked = 0.0  # when the library was last looked for


def state() -> State:
    """How it stands, without starting anything."""
    return _state


def forget() -> None:
    """As in a new process."""
    global _state, _asked
    _state, _asked = State(), 0.0


def check_type() -> Any:
    """The class ``Check`` of the library; ``None`` as long as it isn't there.

    The first call starts to build it, if need be. Later ones look for it every second.
    """
    global _asked
    if _state.final:
        return None if _state.module is None else _state.module.Check
    now = time.monotonic()
    if (_asked and now - _asked < 1.0) or not _lock.acquire(blocking=False):
        return None
    try:
        _asked = now
        if not _state.final:
            _look(wait=os.environ.get("BNFX_NATIVE") == "1")
    finally:
        _lock.release()
    return None if _state.module is None else _state.module.Check


def _look(wait: bool) -> None:
    """Load the library if it is there, else see to it that somebody builds it."""
    why = refusal()
    if why:
        return _settle(State(None, why, final=True))
    try:
        library = cached_library()
        if not library.exists():
            process = start(library, awaited=wait)
            if wait:
                _wait(process, library)
            elif process is not None:
                threading.Thread(target=_watch, args=(process, library), daemon=True).start()
        if library.exists():
            return _settle(State(load(library), f"loaded from {library}", final=True))
        if wait:
            return _settle(State(None, why_not(library), final=True))
        _settle(State(None, "being built"))
    except Exception as error:  # nothing here is worth a call
        _settle(State(None, str(error), final=True))


def _wait(process: subprocess.Popen[bytes] | None, library: Path) -> None:
    if process is not None:
        process.wait()
        return
    until = time.monotonic() + PATIENCE  # another process builds it
    while claim_of(library).exists() and not library.exists() and time.monotonic() < until:
        time.sleep(0.1)


def _settle(new: State) -> None:
    global _state
    if new.sentence != _state.sentence:
        log.info("bnfx: native check: %s", new.sentence)
    _state = new


def _watch(process: subprocess.Popen[bytes], library: Path) -> None:
    if process.wait() != 0 or not library.exists():
        _settle(State(None, why_not(library), final=True))


def refusal() -> str:
    """Why there is nothing to build here."""
    if os.environ.get("BNFX_NATIVE") == "0":
        return "BNFX_NATIVE=0"
    if sys.implementation.name != "cpython" or os.name != "posix":
        return "only built for CPython on Linux and macOS"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "not for Python without the interpreter lock, under which it compares"
    return ""


def load(library: Path) -> Any:
    """Import a library that was built.

    Raises:
        ImportError: if it does not fit this process; it is removed, to be built anew.
    """
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(library))
    spec = importlib.util.spec_from_loader(NAME, loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError:
        library.unlink(missing_ok=True)
        raise
    return module
