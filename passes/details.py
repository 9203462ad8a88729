"""What a report's pictures show of a graph: its ops before and after, and the numbers in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Op:
    """One op of a graph.

    Args:
        identity: of the op; one that stays has the same before and after.
        name: what reports call it.
        kind: ``"conv2d"``, ``"relu"``, ``"multiply-add"``, ``"input"``, ...
        inputs: identities of the ops whose values it reads.
        shape: of its value; open sizes are names; ``None`` where it is not known.
        flops: multiplications and additions, with open sizes as 1; 0 where nothing is counted.
        weight_bytes: of the constants that it stores.
        sites: the BatchNorms and affine ops that it carries out, by their verdicts' positions.
        largest, mean: of the absolute weights of each output channel, as they are stored; empty
            where it has none, or they have no numbers.
    """

    identity: int
    name: str
    kind: str
    inputs: tuple[int, ...] = ()
    shape: tuple[int | str, ...] | None = None
    flops: int = 0
    weight_bytes: int = 0
    sites: tuple[int, ...] = ()
    largest: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()


@dataclass(frozen=True)
class NormNumbers:
    """The numbers of one BatchNorm; vectors have shape ``(C,)``.

    Args:
        eps: that is added to the variance.
        momentum: of its running statistics; ``None`` for a cumulative average.
        scale: ``gamma / sqrt(running_var + eps)``.
        variance: ``running_var``.
        gamma: empty where there is none.
        tracked: batches that its statistics have seen; ``None`` where that is not counted.
    """

    eps: float
    momentum: float | None
    scale: tuple[float, ...]
    variance: tuple[float, ...]
    gamma: tuple[float, ...] = ()
    tracked: int | None = None


@dataclass(frozen=True)
class GraphDetails:
    """A graph before and after the rewrite.

    Args:
        before, after: the ops, in the order in which they run.
        norms: the numbers of BatchNorms, by their verdicts' positions.
    """

    before: tuple[Op, ...]
    after: tuple[Op, ...]
    norms: Mapping[int, NormNumbers] = field(default_factory=dict)
