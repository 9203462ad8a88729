"""The one error of this folder."""

from __future__ import annotations

import reprlib


class RefusedError(ValueError):
    """A file holds something that is not on the list of what is allowed; the message names it."""


class _Short(reprlib.Repr):
    """A list of lists that are one another's items has a ``repr`` that fills the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = 4

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"a number of {x.bit_length()} bits"


def shown(value: object, length: int = 60) -> str:
    """A hostile value, short enough for one line and free of control characters."""
    if isinstance(value, (str, bytes)):
        text = ascii(value[: length + 1])
    else:
        text = ascii(_Short().repr(value))[1:-1]
    return text if len(text) <= length else f"{text[:length]}..."


def words(text: str) -> frozenset[str]:
    """What a list allows, written with spaces between."""
    return frozenset(text.split())
