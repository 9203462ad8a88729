"""What the ops that a map meets on its way back make of it, and their reasons not to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import BlockedError, Movement
from bnfx.passes.graph import Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.rules.routes.readers import refuse_other_readers
from bnfx.passes.rules.routes.route import channel_axis, refuse_dtype, refuse_unknown_rank


@dataclass
class Reasons:
    """Why a value can take neither scale nor shift (``stuck``), or no shift (``still``)."""

    stuck: list[Refusal] = field(default_factory=list)
    still: list[Refusal] = field(default_factory=list)

    def judge(
        self, affine: BroadcastAffine, refuse: Callable[[BroadcastAffine], Iterable[Refusal]]
    ) -> BroadcastAffine:
        """The map, or its scale alone if only that is not refused."""
        refusals = list(refuse(affine))
        if not refusals:
            return affine
        scale = affine.without_shift()
        if any(refuse(scale)):
            self.stuck += refusals
        else:
            self.still += refusals
        return scale


def refuse_value(value: Node, readers: list[Node]) -> Iterator[Refusal]:
    yield from refuse_other_readers(value, readers)
    for reader in readers:
        yield from refuse_dtype(value, reader)
    if value.pinned:
        why = f"the graph may write to the output of {value.name}"
        yield Refusal(Code.MUTATED_IN_GRAPH, why)


def refuse_channels(value: Node, affine: BroadcastAffine) -> Iterator[Refusal]:
    assert isinstance(value.role, Linear)
    unknown = list(refuse_unknown_rank(value, affine))
    yield from unknown
    channels = affine.along(channel_axis(value, value.role))
    known = channels is not None and channels.channels in (None, value.role.operator.out_channels)
    if not unknown and not known:
        what = f"its channels are not the output channels of {value.name}"
        yield Refusal(Code.AXIS_MISMATCH, what)


def refuse_product(value: Node, affine: BroadcastAffine) -> Iterator[Refusal]:
    if not affine.is_scale:
        what = f"it would have to cross the product {value.name}"
        yield Refusal(Code.NONZERO_SHIFT, what)
    if value.inputs[0] is value.inputs[1]:
        yield Refusal(Code.OTHER_READERS, f"{value.name} multiplies a value by itself")


def before(
    value: Node, movement: Movement, affine: BroadcastAffine, reasons: Reasons
) -> BroadcastAffine:
    """The map on the input of ``value`` that does what ``affine`` does on its output."""
    (source,) = value.inputs
    before, after = source.shape, value.shape
    if before is None or after is None:
        return affine  # refused already
    back = movement.back_alone if source.data_users() == [value] else movement.back

    def refuse(part: BroadcastAffine) -> Iterator[Refusal]:
        try:
            back(part, before, after)
        except BlockedError as blocked:
            yield blocked.refusal

    affine = reasons.judge(affine, refuse)
    return affine if reasons.stuck else back(affine, before, after)


def parts(
    value: Node, axis: int, affine: BroadcastAffine
) -> Iterator[tuple[Node, BroadcastAffine]]:
    """Each input of a concatenation, with its share of a map on the whole."""
    start = 0
    for source in value.inputs:
        size = None if source.shape is None else source.shape[axis]
        if axis not in affine.axes:
            yield source, affine
            continue
        if not isinstance(size, int):
            raise BlockedError(Code.DYNAMIC_SHAPE, f"the parts of {value.name} have no fixed sizes")
        yield source, affine.sliced(axis, start, start + size)
        start += size
