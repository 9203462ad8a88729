"""How the command ends where something is wrong: one line on stderr, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import typer

import bnfx


@contextlib.contextmanager
def errors(command: str) -> Iterator[None]:
    """Turn what bnfx raises on purpose into one line and an exit status."""
    try:
        yield
    except bnfx.VerificationError as error:
        typer.echo(f"bnfx {command}: {_line(error)}", err=True)
        raise typer.Exit(1) from None
    except bnfx.BnfxError as error:
        stop(f"bnfx {command}: {_line(error)}")
    except (typer.Exit, typer.Abort):
        raise
    except MemoryError:
        stop(f"bnfx {command}: the memory does not suffice")
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # who read the output has seen enough
        _silence_stdout()
        stop(f"bnfx {command}: {_line(error)}")
    except SystemExit as error:
        called = f"sys.exit({error.code!r})"
        stop(f"bnfx {command}: code of the model called {called}, so nothing was done")
    except Exception as error:
        logging.getLogger("bnfx").debug("the command failed", exc_info=True)
        stop(
            f"bnfx {command}: {type(error).__name__}: {_line(error)[:300]} "
            '(TORCH_LOGS="+bnfx" shows where)'
        )


def _silence_stdout() -> None:
    """What a full disk did not take is not tried once more, with a traceback, on leaving."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def require(command: str, *packages: str) -> None:
    """Stop unless ``packages`` are installed. Looks for them without importing them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        stop(f'bnfx {command} needs {", ".join(missing)}: pip install "bnfx[demo]"')


def stop(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)
