"""What is known of one model of the zoo: plain data, to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import fx

_LINEAR = frozenset(
    {
        *(f"conv{rank}d" for rank in (1, 2, 3)),
        *(f"conv_transpose{rank}d" for rank in (1, 2, 3)),
        "linear",
    }
)


@dataclass(frozen=True)
class Outcomes:
    """How many sites of one kind came to what."""

    folded: int = 0
    merged: int = 0
    lowered: int = 0
    kept: int = 0

    @property
    def total(self) -> int:
        return self.folded + self.merged + self.lowered + self.kept

    @property
    def left(self) -> int:
        """Those that still take an op of their own."""
        return self.lowered + self.kept


@dataclass(frozen=True)
class Counts:
    """What graphs consist of.

    Args:
        ops: nodes that compute something.
        linears: of these, convolutions, transposed convolutions and linear layers.
        batch_norms: of these, calls of BatchNorm, with running statistics (weights are standardised
            by calls without).
    """

    ops: int = 0
    linears: int = 0
    batch_norms: int = 0

    @staticmethod
    def of(module: fx.GraphModule) -> Counts:
        """Counts in a captured graph, and in the graphs nested in it."""
        graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
        nodes = [node for graph in graphs for node in graph.nodes if node.op.startswith("call_")]
        names = [getattr(node.target, "__name__", "") for node in nodes]
        norms = [node for node, name in zip(nodes, names, strict=True) if "batch_norm" in name]
        return Counts(
            ops=len(nodes),
            linears=sum(name in _LINEAR for name in names),
            batch_norms=sum(
                any("running" in str(read) for read in n.all_input_nodes) for n in norms
            ),
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.ops + other.ops,
            self.linears + other.linears,
            self.batch_norms + other.batch_norms,
        )


@dataclass(frozen=True)
class ZooRow:
    """What was measured of one model.

    Args:
        model: its name.
        shape: of its input.
        dtype: in which it ran, ``"float64"`` or ``"float32"``.
        graphs: as how many graphs Dynamo captured it.
        batch_norms: what became of the BatchNorms in these graphs.
        affines: what became of the other affine ops.
        before, after: counts as captured, and as handed on by bnfx.
        error: largest ``max|bnfx - model| / max|model|`` over the outputs.
        rewrites: how often each rule was applied.
        refusals: by kind, how often each code was given for what did not fold.
        reasons: for each of these codes, the first sentence that came with it.
        seconds: what all this took, building the model included.
        problems: what is wrong, a sentence each; empty if all is right.
        left_out: why the model was not run; everything else is empty then.
    """

    model: str
    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    graphs: int = 0
    batch_norms: Outcomes = Outcomes()
    affines: Outcomes = Outcomes()
    before: Counts = Counts()
    after: Counts = Counts()
    error: float = 0.0
    rewrites: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    left_out: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON; see :meth:`from_dict`."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ZooRow:
        """The row that :meth:`to_dict` wrote."""
        known: dict[str, Any] = dict(data)
        for name, kind in (
            ("batch_norms", Outcomes),
            ("affines", Outcomes),
            ("before", Counts),
            ("after", Counts),
        ):
            known[name] = kind(**known[name])
        for name in ("shape", "problems"):
            known[name] = tuple(known[name])
        return ZooRow(**known)
