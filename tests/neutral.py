"""Neutral graphs by hand, with NumPy arrays for parameters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from bnfx.passes import pipeline
from bnfx.passes.algebra import ChannelAffine, Conv, Evaluator, LinearOperator, Source
from bnfx.passes.graph import Affine, Graph, Linear, Node, Opaque, Role
from bnfx.passes.numerics import Values
from bnfx.passes.report import GraphReport, Site, Verdict
from bnfx.passes.rules import Rule

Array = npt.NDArray[Any]


class Model:
    """A neutral graph under construction, its parameters, and one input ``x``."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.arrays: dict[str, Array] = {}
        self.random = np.random.default_rng(0)
        self.x = self.add("x", Opaque())

    def source(self, name: str, value: Any, dtype: str = "float32") -> Source:
        array = np.asarray(value, dtype=dtype)
        self.arrays[name] = array
        return Source(name, array.shape, dtype)

    def random_source(self, name: str, *shape: int, dtype: str = "float32") -> Source:
        return self.source(name, self.random.normal(size=shape), dtype)

    def add(self, name: str, role: Role, *inputs: Node, **fields: Any) -> Node:
        known = {"rank": 4, "dtype": "float32", **fields}
        return self.graph.append(Node(name, role, list(inputs), **known))

    def linear(self, name: str, operator: LinearOperator, before: Node, **fields: Any) -> Node:
        stored = next(operator.weight.sources()).dtype
        return self.add(name, Linear(operator, stored), before, **fields)

    def conv(self, name: str, before: Node, weight: Any = None, **fields: Any) -> Node:
        """A 1x1 Conv2d of 3 channels, without bias; ``fields`` are the node's."""
        dtype = fields.get("dtype", "float32")
        value = self.random.normal(size=(3, 3, 1, 1)) if weight is None else weight
        source = self.source(f"{name}.weight", np.broadcast_to(value, (3, 3, 1, 1)), dtype)
        return self.linear(
            name, Conv(source, None, (1, 1), ((0, 0),) * 2, (1, 1)), before, **fields
        )

    def batch_norm(
        self,
        name: str,
        before: Node,
        channels: int = 3,
        axis: int = 1,
        statistics: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Node:
        """A BatchNorm of signed random parameters; ``statistics`` sets some of the four."""
        random = {
            "mean": self.random.normal(size=channels),
            "var": self.random.uniform(0.5, 2, channels),
            "gamma": self.random.normal(size=channels),
            "beta": self.random.normal(size=channels),
        }
        mean, var, gamma, beta = (
            self.source(f"{name}.{part}", np.broadcast_to(value, channels))
            for part, value in {**random, **(statistics or {})}.items()
        )
        affine = ChannelAffine.batch_norm(mean, var, gamma, beta, eps=1e-5)
        fields = {"sites": (Site(name, "batch_norm"),), **fields}
        return self.add(name, Affine(affine, axis), before, **fields)

    @property
    def evaluate(self) -> Evaluator:
        return Evaluator(lambda source: self.arrays[source.name], np.zeros(()))

    @property
    def values(self) -> Values:
        return Values(lambda source: self.arrays[source.name], np.zeros(()))

    def run(self, *rules: Rule, numbers: bool = True) -> GraphReport:
        return pipeline.run(self.graph, rules, self.values if numbers else None)

    def counts(self) -> Counter[str]:
        """How many nodes there are of each role."""
        return Counter(
            "Lowered" if getattr(node.role, "lowered", False) else type(node.role).__name__
            for node in self.graph
        )

    def picture(self) -> list[tuple[Any, ...]]:
        """All that a rule could change, for "the graph is as it was"."""
        return [
            (
                node.name,
                node.role,
                [source.name for source in node.inputs],
                [user.name for user in node.users],
                node.rank,
                node.dtype,
            )
            for node in self.graph
        ]

    def refused_by(self, *rules: Rule, numbers: bool = True) -> Verdict:
        """The verdict on the only BatchNorm, after checking that ``rules`` left the graph alone."""
        before = self.picture()
        (verdict,) = self.run(*rules, numbers=numbers).verdicts
        assert self.picture() == before
        return verdict
