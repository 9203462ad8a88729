"""The one error of this folder."""

from __future__ import annotations


class RefusedError(ValueError):
    """A file holds something that is not on the list of what is allowed; the message names it."""


def shown(value: object, length: int = 60) -> str:
    """A hostile value, short enough for one line and free of control characters."""
    text = ascii(value) if isinstance(value, (str, bytes)) else ascii(repr(value))[1:-1]
    return text if len(text) <= length else f"{text[:length]}..."


def words(text: str) -> frozenset[str]:
    """What a list allows, written with spaces between."""
    return frozenset(text.split())
