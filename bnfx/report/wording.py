"""Wording of messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``"1 BatchNorm"``, ``"2 BatchNorms"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sized(count: int) -> str:
    """``"262 KB"``, ``"1.5 MB"``: bytes, in powers of 1000."""
    amount, units = float(count), ["bytes", "KB", "MB", "GB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        del units[0]
    digits = 0 if units[0] == "bytes" or amount >= 100 else 1
    return f"{amount:.{digits}f} {units[0]}"
