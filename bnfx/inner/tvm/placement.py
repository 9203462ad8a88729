"""Which ops of a graph TVM runs and which PyTorch, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bnfx.errors import InnerWarning
from bnfx.passes.user_warnings import warn as warn_user


@dataclass
class Placement:
    """What came of one graph at one combination of sizes.

    Args:
        tvm: name of an operator -> how many of its calls TVM runs.
        torch: the same for PyTorch, views aside.
        reasons: name -> why PyTorch runs it.
        parts: how many parts TVM runs.
        check: how long it took to compare them with PyTorch, in seconds, by now.
        differences: the parts that were not equal, and run in PyTorch since.
    """

    tvm: Counter[str] = field(default_factory=Counter)
    torch: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    parts: int = 0
    check: float = 0.0
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = sum(self.tvm.values()) + sum(self.torch.values())
        text = f"TVM runs {sum(self.tvm.values())} of {total} operators in {self.parts} parts"
        return f"{text}; PyTorch runs {self.in_torch()}" if self.torch else text

    def in_torch(self) -> str:
        """The operators that PyTorch runs, with the reasons."""
        return ", ".join(f"{name} ({self.reasons[name]})" for name in self.torch)


def warn(message: str) -> None:
    warn_user(f"bnfx: {message}", InnerWarning)
