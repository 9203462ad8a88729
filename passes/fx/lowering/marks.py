"""Marks on the ops that a fold writes, by which a later look at the result knows them.

They are in ``node.meta["custom"]``, which ``torch.export.save`` stores with the program.
"""

from __future__ import annotations

import copy
from enum import Enum

from torch import fx

MARK_KEY = "bnfx"
_CUSTOM = "custom"


class Mark(Enum):
    """What an op is that a fold wrote.

    ``REST``: another op of the same multiply-add.
    """

    MULTIPLY_ADD = "multiply_add"
    BORDER = "border"
    REST = "rest"


def mark(node: fx.Node, what: Mark) -> None:
    """Mark a node that was just written."""
    node.meta[_CUSTOM] = {**node.meta.get(_CUSTOM, {}), MARK_KEY: what.value}


def mark_of(node: fx.Node) -> Mark | None:
    """The node's mark, if it has one."""
    custom = node.meta.get(_CUSTOM)
    value = custom.get(MARK_KEY) if isinstance(custom, dict) else None
    return Mark(value) if value in {each.value for each in Mark} else None


def inherit(written: fx.Node, origin: fx.Node, is_border: bool) -> None:
    """Give a node that was written for ``origin`` its metadata; the mark stays."""
    what = mark_of(written)
    written.meta = copy.copy(origin.meta)
    if what is not None:
        mark(written, Mark.BORDER if is_border else what)
