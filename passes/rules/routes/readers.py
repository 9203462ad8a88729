"""What the readers of one value want of it together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import combinations

from bnfx.passes.algebra import BroadcastAffine
from bnfx.passes.crossing import Movement, Select
from bnfx.passes.graph import Move, Node
from bnfx.passes.refusals import Refusal
from bnfx.passes.rules.guards import also_read

# A reader, and the map that it wants of what it reads; a select, of the positions that it reads.
Wanted = tuple[Node, BroadcastAffine]


def refuse_other_readers(value: Node, readers: Sequence[Node]) -> Iterator[Refusal]:
    """Reasons if anything but ``readers`` sees elements of ``value`` that one of them sees."""
    known = set(readers)
    selects = [select for reader in known if (select := _select(reader)) is not None]
    others = [user for user in value.data_users() if user not in known]
    if len(selects) == len(known):
        others = [
            user
            for user in others
            if not isinstance(user.role, Move)
            or any(select.overlaps(user.role.movement) for select in selects)
        ]
    if others:
        yield also_read(value, others)


def agreed(
    value: Node, wanted: Sequence[Wanted]
) -> tuple[BroadcastAffine, list[Refusal], list[Refusal]]:
    """The one map that all readers want of ``value``.

    Returns:
        The map, reasons why there is none, and reasons why there is one for the scale alone.

    Raises:
        BlockedError: if the maps of parts cannot be put together.
    """
    whole = [affine for reader, affine in wanted if _select(reader) is None]
    if not whole:
        return _of_parts(value, wanted)
    affine, stuck, still = whole[0], [], []
    for reader, other in wanted:
        select = _select(reader)
        seen = affine if select is None else select.forward(affine, (), ())
        if not seen.scales_like(other):
            stuck.append(also_read(value, [reader]))
        elif not seen.shifts_like(other):
            still.append(also_read(value, [reader]))
    return affine, stuck, still


def _of_parts(
    value: Node, wanted: Sequence[Wanted]
) -> tuple[BroadcastAffine, list[Refusal], list[Refusal]]:
    """The map of which each reader, a select, wants its part; the identity where none reads."""
    selects = [(_select(reader), reader, affine) for reader, affine in wanted]
    parts = sorted(
        ((s, r, a) for s, r, a in selects if s is not None), key=lambda part: part[0].start
    )
    lifted = [a if s.keep else a.inserted(s.axis) for s, _, a in parts]
    axis, first = parts[0][0].axis, lifted[0]
    alike = all(s.axis == axis for s, _, _ in parts) and all(
        first.scales_like(a) and first.shifts_like(a) for a in lifted
    )
    if alike and axis not in first.axes and len(value.data_users()) == len(parts):
        return first, [], []  # nobody sees the other positions: they may change as well
    stuck = [
        also_read(value, [reader])
        for (one, _, _), (other, reader, _) in combinations(parts, 2)
        if one.overlaps(other)
    ]
    if stuck:
        return first, stuck, []
    assert value.shape is not None
    shape = value.shape
    embedded = [select.back(affine, shape, ()) for select, _, affine in parts]
    return reduce(BroadcastAffine.__matmul__, embedded), [], []


def _select(reader: Node) -> Select | None:
    movement: Movement | None = reader.role.movement if isinstance(reader.role, Move) else None
    return movement if isinstance(movement, Select) else None
