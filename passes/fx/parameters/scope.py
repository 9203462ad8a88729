"""How the sources of a graph are named, so that those of several graphs can stand in one recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bnfx.passes.algebra import Source


@dataclass(frozen=True)
class Scope:
    """Where a graph stands.

    Args:
        given: what placeholders stand for in the graph around this one.
        attributes: what the names of attributes begin with: the path of this graph, with a dot.
        computed: what the names of computed constants begin with.
    """

    given: Mapping[str, Source] = field(default_factory=dict)
    attributes: str = ""
    computed: str = ""


WHOLE = Scope()
