"""Random networks around BatchNorms, written through what an IR offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

Expr = Any


@dataclass(frozen=True)
class Tensor:
    """A value of the network: its expression and shape, and whether channels are last."""

    expr: Expr
    shape: tuple[int, ...]
    last: bool

    @property
    def axis(self) -> int:
        return len(self.shape) - 1 if self.last else 1

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def spatial(self) -> list[int]:
        return [axis for axis in range(1, len(self.shape)) if axis != self.axis]


class Writer(ABC):
    """What a network is written with; expressions are of the IR."""

    random: np.random.Generator

    @abstractmethod
    def constant(self, array: Any) -> Expr: ...

    @abstractmethod
    def op(self, name: str, *args: Any, **options: Any) -> Expr:
        """A call by Relax's name of the op; a part of a tuple for BatchNorm."""

    @abstractmethod
    def shape(self, expr: Expr) -> tuple[int, ...]: ...

    @abstractmethod
    def concat(self, parts: list[Expr], axis: int) -> Expr: ...

    @abstractmethod
    def split(self, x: Expr, sections: int, axis: int) -> list[Expr]: ...

    @abstractmethod
    def slice(self, x: Expr, axis: int, start: int, stop: int) -> Expr: ...

    @abstractmethod
    def pad(self, x: Expr, sides: list[tuple[int, int]], mode: str, fill: float) -> Expr: ...

    @abstractmethod
    def batch_norm(self, x: Expr, statistics: list[Expr], **options: Any) -> Expr: ...

    def extra(self, network: Network, x: Tensor) -> Tensor:
        """Something that only this IR has: branches, functions, dead code, writes."""
        return x


class Network:
    """One network, drawn from a random generator.

    Args:
        writer: of the IR.
        steps: how many layers it has about.
    """

    def __init__(self, writer: Writer, steps: int) -> None:
        self.writer = writer
        self.random = writer.random
        self.steps = steps
        self.norms = 0

    def number(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Expr:
        return self.writer.constant(self.random.uniform(low, high, shape))

    def draw(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def build(self, x: Tensor) -> Tensor:
        layers = (self.conv, self.conv, self.norm, self.norm, self.norm, self.arithmetic)
        layers += (self.unary, self.pool, self.join, self.part, self.move, self.special)
        for _ in range(self.steps):
            x = self.draw(*layers)(x)
        return self.norm(x)

    def made(self, expr: Expr, last: bool) -> Tensor:
        return Tensor(expr, self.writer.shape(expr), last)

    def conv(self, x: Tensor) -> Tensor:
        n = len(x.shape) - 2
        if n < 1:
            return self.dense(x)
        groups = self.draw(1, 1, x.channels, 2 if x.channels % 2 == 0 else 1)
        out = groups * self.draw(1, 2, 3) if groups > 1 else self.draw(2, 4, 6)
        size = [min(self.draw(1, 2, 3), x.shape[axis]) for axis in x.spatial]
        weight = self.random.uniform(-1, 1, (out, x.channels // groups, *size))
        axes = {1: "W", 2: "HW", 3: "DHW"}[n]
        kernel = self.draw("OI" + axes, axes + "IO") if x.last else "OI" + axes
        weight = np.transpose(
            weight, ["OI".find(c) if c in "OI" else 2 + axes.index(c) for c in kernel]
        )
        y = self.writer.op(
            f"nn.conv{n}d",
            x.expr,
            self.writer.constant(weight),
            strides=[self.draw(1, 1, 2)] * n,
            padding=[self.draw(0, 1) for _ in range(2 * n)],
            groups=groups,
            data_layout=f"N{axes}C" if x.last else f"NC{axes}",
            kernel_layout=kernel,
        )
        y = self.made(y, x.last)
        return self.bias(y) if self.draw(True, False) else y

    def dense(self, x: Tensor) -> Tensor:
        if x.axis != len(x.shape) - 1:
            return x
        y = self.writer.op("matmul", x.expr, self.number(x.channels, out := self.draw(3, 4)))
        return Tensor(y, (*x.shape[:-1], out), x.last)

    def bias(self, x: Tensor) -> Tensor:
        shape = [1] * len(x.shape)
        shape[x.axis] = x.channels
        return Tensor(self.writer.op("add", x.expr, self.number(*shape)), x.shape, x.last)

    def norm(self, x: Tensor) -> Tensor:
        self.norms += 1
        axis = x.axis if self.random.random() < 0.9 else int(self.random.integers(len(x.shape)))
        size, low = x.shape[axis], self.draw(-1.5, 0.2)
        statistics = [self.number(size, low=low, high=1.5), self.number(size), self.number(size)]
        statistics.append(self.number(size, low=0.2, high=2.0))
        options = {"axis": axis, "center": self.draw(True, True, False), "epsilon": 1e-3}
        options["scale"] = self.draw(True, True, False)
        return Tensor(self.writer.batch_norm(x.expr, statistics, **options), x.shape, x.last)

    def arithmetic(self, x: Tensor) -> Tensor:
        shape = [self.draw(1, size) if axis else 1 for axis, size in enumerate(x.shape)]
        name = self.draw("add", "subtract", "multiply", "divide")
        known = self.number(*self.draw(shape, [], shape), low=0.5, high=1.5)
        pair = (x.expr, known) if name == "divide" or self.draw(True, False) else (known, x.expr)
        return Tensor(self.writer.op(name, *pair), x.shape, x.last)

    def unary(self, x: Tensor) -> Tensor:
        name = self.draw("nn.relu", "sigmoid", "negative")
        return Tensor(self.writer.op(name, x.expr), x.shape, x.last)

    def pool(self, x: Tensor) -> Tensor:
        n = len(x.shape) - 2
        if n < 1 or min(x.shape[axis] for axis in x.spatial) < 2:
            return x
        axes, kind = {1: "W", 2: "HW", 3: "DHW"}[n], self.draw("max", "avg")
        options: dict[str, Any] = {"pool_size": [2] * n, "strides": [self.draw(1, 2)] * n}
        options["padding"] = [self.draw(0, 1)] * 2 * n
        options["layout"] = f"N{axes}C" if x.last else f"NC{axes}"
        if kind == "avg":
            options["count_include_pad"] = self.draw(True, False)
        return self.made(self.writer.op(f"nn.{kind}_pool{n}d", x.expr, **options), x.last)

    def join(self, x: Tensor) -> Tensor:
        """A sum or concatenation of two ways from here, or with what was before."""
        one, other = self.draw(self.norm, self.unary)(x), self.draw(self.norm, self.bias)(x)
        if self.draw(True, False):
            name = self.draw("add", "subtract", "multiply")
            return Tensor(self.writer.op(name, one.expr, other.expr), x.shape, x.last)
        return self.made(self.writer.concat([one.expr, other.expr], x.axis), x.last)

    def part(self, x: Tensor) -> Tensor:
        axis = self.draw(x.axis, *x.spatial)
        size = x.shape[axis]
        if size < 2:
            return x
        if size % 2 == 0 and self.draw(True, False):
            one, other = self.writer.split(x.expr, 2, axis)
            both = [
                self.unary(self.made(one, x.last)).expr,
                self.norm(self.made(other, x.last)).expr,
            ]
            return self.made(self.writer.concat(self.draw(both, both[::-1]), axis), x.last)
        start = int(self.random.integers(size - 1))
        return self.made(self.writer.slice(x.expr, axis, start, size), x.last)

    def move(self, x: Tensor) -> Tensor:
        """Reshapes, transposes, pads, repeats, means."""
        rank = len(x.shape)
        what = self.draw("transpose", "pad", "repeat", "mean", "flatten")
        if what == "transpose":
            order = [0, *x.spatial, x.axis] if not x.last else [0, x.axis, *x.spatial]
            return self.made(self.writer.op("permute_dims", x.expr, axes=order), not x.last)
        if what == "pad" and x.spatial:
            sides = [(self.draw(0, 1), 1) if axis in x.spatial else (0, 0) for axis in range(rank)]
            mode = self.draw("constant", "edge")
            return self.made(self.writer.pad(x.expr, sides, mode, self.draw(0.0, 0.0, 1.5)), x.last)
        if what == "repeat" and np.prod(x.shape) < 2000:
            axis = self.draw(*range(1, rank))
            return self.made(self.writer.op("repeat", x.expr, repeats=2, axis=axis), x.last)
        if what == "mean" and rank > 3 and self.draw(True, False, False):
            axis = x.spatial[-1]
            y = self.writer.op("mean", x.expr, axis=[axis], keepdims=False)
            return self.made(y, x.last)
        if what == "flatten" and rank == 4:
            n, *rest = x.shape
            shape = (n, rest[0] * rest[1], rest[2]) if x.last else (n, rest[0], rest[1] * rest[2])
            return self.made(self.writer.op("reshape", x.expr, shape), x.last)
        return x

    def special(self, x: Tensor) -> Tensor:
        return self.writer.extra(self, x)


def start(random: np.random.Generator) -> tuple[tuple[int, ...], bool]:
    """A shape, and whether channels are last."""
    spatial = [(5,), (4, 5), (4, 5), (3, 4, 3)][int(random.integers(4))]
    last = bool(random.integers(2))
    return ((2, *spatial, 4) if last else (2, 4, *spatial)), last
