"""Instructions that only move what is on the stack, in the writing of each Python."""

from __future__ import annotations

import dis
from typing import Any

# Python 3.10; later ones have COPY and SWAP. ROT_N has its count as argument.
_ROTATED = {"ROT_TWO": 2, "ROT_THREE": 3, "ROT_FOUR": 4}


def move(each: dis.Instruction, stack: list[Any]) -> bool:
    """Run the instruction, and say whether it was one of these."""
    name, arg = each.opname, each.arg or 0
    if name == "POP_TOP":
        stack.pop()
    elif name == "COPY":
        stack.append(stack[-arg])
    elif name == "SWAP":
        stack[-1], stack[-arg] = stack[-arg], stack[-1]
    elif name == "DUP_TOP":
        stack.append(stack[-1])
    elif name in _ROTATED or name == "ROT_N":
        top = stack.pop()
        stack.insert(len(stack) + 1 - _ROTATED.get(name, arg), top)
    else:
        return False
    return True
