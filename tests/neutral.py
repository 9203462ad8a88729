"""Neutral graphs by hand, with NumPy arrays for parameters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from bnfx.passes import pipeline
from bnfx.passes.algebra import (
    BroadcastAffine,
    ChannelAffine,
    Conv,
    Dense,
    Evaluator,
    LinearOperator,
    Scalar,
    Source,
)
from bnfx.passes.crossing import Movement
from bnfx.passes.graph import Add, Affine, Concat, Graph, Linear, Move, Node, Opaque, Product, Role
from bnfx.passes.refusals import Refusal
from bnfx.passes.report import GraphReport, Site, Verdict
from bnfx.passes.rules.rule import Rule
from bnfx.passes.values import Values

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
        return self.add(name, Affine(BroadcastAffine.of_channels(affine, axis)), before, **fields)

    # From here on values have shapes.

    def input(self, name: str, *dims: int | str, **fields: Any) -> Node:
        """Another input; a size that is not fixed is a name."""
        return self.add(name, Opaque(), rank=len(dims), shape=dims, **fields)

    def like(self, name: str, role: Role, *inputs: Node, **fields: Any) -> Node:
        """A node of its first input's shape and dtype."""
        first = inputs[0]
        known = {"rank": first.rank, "shape": first.shape, "dtype": first.dtype, **fields}
        return self.add(name, role, *inputs, **known)

    def move(self, name: str, movement: Movement, before: Node, *dims: int | str) -> Node:
        """An op that maps may cross; without ``dims`` it keeps its input's shape."""
        shape = dims or before.shape
        return self.like(name, Move(movement), before, rank=len(shape or ()), shape=shape)

    def concat(self, name: str, axis: int, *inputs: Node) -> Node:
        dims = list(inputs[0].shape or ())
        dims[axis] = sum(node.shape[axis] for node in inputs)  # type: ignore[index, misc]
        return self.like(name, Concat(axis), *inputs, shape=tuple(dims))

    def plus(self, name: str, one: Node, other: Node, *factors: float) -> Node:
        return self.like(name, Add(factors or (1.0, 1.0)), one, other)  # type: ignore[arg-type]

    def gate(self, name: str, one: Node, other: Node) -> Node:
        return self.like(name, Product(), one, other)

    def norm(
        self, name: str, before: Node, statistics: dict[str, Any] | None = None, **fields: Any
    ) -> Node:
        """A BatchNorm of ``before``'s own channels, which are axis 1."""
        assert before.shape is not None
        known = {"rank": before.rank, "shape": before.shape, "dtype": before.dtype, **fields}
        return self.batch_norm(name, before, int(before.shape[1]), 1, statistics, **known)

    def arithmetic(self, name: str, before: Node, scale: Any = 1.0, shift: Any = 0.0) -> Node:
        """``before * scale + shift``, the user's own; arrays are aligned at the front."""

        def side(part: str, value: Any) -> Any:
            return (
                Scalar(value) if isinstance(value, float) else self.source(f"{name}.{part}", value)
            )

        affine = BroadcastAffine(side("scale", scale), side("shift", shift))
        return self.like(name, Affine(affine), before, sites=(Site(name, "affine"),))

    def conv2d(
        self,
        name: str,
        before: Node,
        out: int,
        kernel: tuple[int, int] | int = 1,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        **fields: Any,
    ) -> Node:
        """A convolution of random weights on ``before``, of shape (N, C, H, W)."""
        assert before.shape is not None
        taps = (kernel, kernel) if isinstance(kernel, int) else kernel
        dtype = before.dtype or "float32"
        channels = int(before.shape[1])
        weight = self.random_source(f"{name}.weight", out, channels // groups, *taps, dtype=dtype)
        conv = Conv(
            weight,
            self.random_source(f"{name}.bias", out, dtype=dtype) if bias else None,
            (stride,) * 2,
            ((padding,) * 2,) * 2,
            (dilation,) * 2,
            groups,
        )
        return self.linear(name, conv, before, **self._sizes(conv, before), **fields)

    def dense(self, name: str, before: Node, out: int, bias: bool = True, **fields: Any) -> Node:
        assert before.shape is not None
        weight = self.random_source(f"{name}.weight", out, int(before.shape[-1]))
        operator = Dense(weight, self.random_source(f"{name}.bias", out) if bias else None)
        shape = (*before.shape[:-1], out)
        return self.linear(name, operator, before, rank=before.rank, shape=shape, **fields)

    def _sizes(self, operator: LinearOperator, before: Node) -> dict[str, Any]:
        dims = before.shape or ()
        known = all(isinstance(size, int) for size in dims[1:])
        sample = operator.output_shape(dims[1:]) if known else (operator.out_channels, *dims[2:])
        return {"rank": before.rank, "dtype": before.dtype, "shape": (*dims[:1], *sample)}

    def reasons(self, rule: Rule, node: Node, numbers: bool = True) -> list[Refusal]:
        """The rule's reasons against ``node``, after checking that it leaves the graph alone."""
        before = self.picture()
        self.run(rule, numbers=numbers)
        assert self.picture() == before
        assert rule.match(node)
        return list(rule.refuse(node, self.values if numbers else None))

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

    def has_border(self) -> bool:
        """Whether something is added to a linear operator's output position by position."""
        return any(
            isinstance(node.role, Affine) and node.role.lowered and len(node.role.map.axes) > 1
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
