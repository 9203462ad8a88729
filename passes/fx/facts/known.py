"""What may be known of an op. What is not stated is not known, and then the worst is assumed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Facts:
    """One op, however it is written: the row of :data:`~bnfx.passes.fx.facts.op_table.TABLE`.

    Its spellings are found, not listed: functions and in-place twins (``name_``) in the namespaces
    of :mod:`~bnfx.passes.fx.facts.spelling`, methods and attributes of tensors, ATen's overloads.

    Args:
        name: torch's; that of a method where there is no function.
        also: other names of the same op, ATen's among them.
        operators: names in Python's ``operator``, without those of augmented assignments.
        modules: classes of ``torch.nn`` that call it, with their attributes as arguments.
        fresh: the result's memory is its own, never that of an argument.
        pure: it depends on its arguments alone, draws no random numbers and, but for its in-place
            twin, changes nothing.
        keeps_dtype: arguments of one dtype give a result of that dtype, wherever the result could
            as well be written over the first argument.
        metadata: it reads shapes, dtypes and devices, and no element.
        like: of tensors behind the first it reads no element.
        strides: whether it works, or what it gives, depends on strides.
    """

    name: str
    also: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    modules: tuple[type[nn.Module], ...] = ()
    fresh: bool = False
    pure: bool = False
    keeps_dtype: bool = False
    metadata: bool = False
    like: bool = False
    strides: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.also)
