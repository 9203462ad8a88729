"""Wording of messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """``"1 BatchNorm"``, ``"2 BatchNorms"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sized(count: int) -> str:
    """``"262 KB"``, ``"1.52 MB"``: bytes, in powers of 1000."""
    return _scaled(count, (" bytes", " KB", " MB", " GB"))


def operations(count: int) -> str:
    """``"817"``, ``"3.64 G"``: floating-point operations, in powers of 1000."""
    return _scaled(count, ("", " k", " M", " G", " T"))


def _scaled(count: int, units: Sequence[str]) -> str:
    amount, largest = float(count), len(units) - 1
    step = 0
    while amount >= 999.5 and step < largest:  # 999.5 is rounded to 1000
        amount /= 1000
        step += 1
    return f"{amount:.3g}{units[step]}" if amount < 999.5 else f"{amount:.0f}{units[step]}"
