"""The random networks in another writing: each layer as it is, or by one rule of algebra.

A network draws from ``random`` as before, and how a layer is written is drawn from ``chooser``, so
the same seed gives two modules that compute the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_random.program import Expr, Writer

Array = Any
LINEAR = ("plain", "split channels", "summed", "scaled", "in two", "permuted", "negated")
# Layouts, the size of a kernel, and the axis of the channels.
FORMS = {
    "first": ("NCHW", "OIHW", (4, 4, 3, 3), 1),
    "last": ("NHWC", "HWIO", (3, 3, 4, 4), 3),
}
SHAPES = {"first": (2, 4, 4, 5), "last": (2, 4, 5, 4), "dense": (3, 4)}
# What is left beside a linear operator, its bias and a ReLU: a second operator with its bias and a
# concatenation; two copies.
MORE = {"split channels": 3, "permuted": 2}
NORM = ("plain", "by hand", "as a map", "in two", "ones and zeros", "permuted", "twice")


def left(linear: str, norm: str) -> int:
    """The ops that are left of `Rewritten.pair`."""
    return 3 + MORE.get(linear, 0) + MORE.get(norm, 0)


class Rewritten(Writer if TYPE_CHECKING else object):
    """Mixed into the writer of an IR: emits other ops for convolutions, products and BatchNorms."""

    def __init__(self, seed: int, other: int = 0, chosen: str | None = None) -> None:
        """``chosen``: what is written in another way, and how; drawn from ``other`` if ``None``."""
        super().__init__(seed)
        self.chooser = np.random.default_rng(other)
        self.chosen = chosen

    def array(self, constant: Expr) -> Array:
        """The numbers of a constant."""
        raise NotImplementedError

    def unread(self) -> None:
        """Draw what `batch_norm` of the IR draws."""

    def op(self, name: str, *args: Any, **options: Any) -> Expr:
        if not (name.startswith("nn.conv") or name == "matmul") or self._within:
            return super().op(name, *args, **options)
        x, weight = args
        numbers = self.array(weight)
        if name == "matmul":
            rank = len(self.shape(x))
            self._axis, out, inside = rank - 1, 1, 0
        else:
            self._axis = options["data_layout"].index("C")
            out, inside = (options["kernel_layout"].index(letter) for letter in "OI")
        with_weight = lambda w, y=x: self._plain(name, y, self.constant(w), **options)  # noqa: E731
        grouped = options.get("groups", 1) > 1
        match self._choose(LINEAR):
            case "split channels" if numbers.shape[out] > 1 and not grouped:
                at = numbers.shape[out] // 2
                parts = np.split(numbers, [at], axis=out)
                return self.concat([with_weight(part) for part in parts], self._axis)
            case "summed":
                return self._plain("add", with_weight(0.75 * numbers), with_weight(0.25 * numbers))
            case "scaled":
                two = self.constant(np.float64(2.0))
                return self._plain("multiply", with_weight(0.5 * numbers), two)
            case "negated":
                return self._plain("negative", with_weight(-numbers))
            case "in two" if not grouped:
                reverse = np.flip(np.eye(numbers.shape[inside]), 0)
                if name == "matmul":
                    first = self._plain(name, x, self.constant(reverse))
                else:
                    first = self._pointwise(name, x, reverse, options)
                return with_weight(np.flip(numbers, inside), first)
            case "permuted":
                return self._there_and_back(with_weight(numbers))
        return with_weight(numbers)

    _within = False
    _axis = 0

    def pair(self, x: Expr, kind: str, linear: str, norm: str) -> Expr:
        """A layer of four channels, BatchNorm and ReLU, the first two written as named."""
        random, shape = self.random, self.shape(x)
        self.chosen = linear
        if kind == "dense":
            weight = self.constant(random.uniform(-1, 1, (4, 4)))
            y, axis = self.op("matmul", x, weight), len(shape) - 1
        else:
            data, kernel, size, axis = FORMS[kind]
            layouts = {"data_layout": data, "kernel_layout": kernel}
            weight = self.constant(random.uniform(-1, 1, size))
            options = {"strides": [1, 1], "padding": [0] * 4, "groups": 1, **layouts}
            y = self.op("nn.conv2d", x, weight, **options)
        self.chosen = norm
        statistics = [self.constant(random.uniform(-1.5, 1.5, 4)) for _ in range(3)]
        statistics.append(self.constant(random.uniform(0.2, 2, 4)))
        options = {"axis": axis, "center": True, "scale": True, "epsilon": 1e-3}
        return self._plain("nn.relu", self.batch_norm(y, statistics, **options))

    def _plain(self, name: str, *args: Any, **options: Any) -> Expr:
        self._within = True
        try:
            return self.op(name, *args, **dict(options))
        finally:
            self._within = False

    def _choose(self, kinds: tuple[str, ...]) -> str:
        if self.chosen is not None:
            return self.chosen
        assert self.chooser is not None
        return kinds[int(self.chooser.integers(len(kinds)))]

    def _pointwise(self, name: str, x: Expr, matrix: Array, options: dict[str, Any]) -> Expr:
        layout = options["kernel_layout"]
        kernel = matrix.reshape(*matrix.shape, *(1,) * (len(layout) - 2))
        places = {"O": 0, "I": 1}
        kernel = np.moveaxis(kernel, (0, 1), [layout.index(letter) for letter in places])
        n = len(layout) - 2
        options = {**options, "strides": [1] * n, "padding": [0] * 2 * n, "groups": 1}
        return self._plain(name, x, self.constant(kernel), **options)

    def _there_and_back(self, x: Expr) -> Expr:
        order = list(range(len(self.shape(x))))
        order = [order[0], *order[2:], order[1]]
        there = self._plain("permute_dims", x, axes=order)
        return self._plain("permute_dims", there, axes=[int(at) for at in np.argsort(order)])

    def batch_norm(self, x: Expr, statistics: list[Expr], **options: Any) -> Expr:
        axis, eps = options["axis"], options["epsilon"]
        gamma, beta, mean, var = map(self.array, statistics)
        gamma = gamma if options["scale"] else np.ones_like(gamma)
        beta = beta if options["center"] else np.zeros_like(beta)
        shape = [1] * len(self.shape(x))
        shape[axis] = len(mean)
        known = lambda array: self.constant(np.reshape(array, shape))  # noqa: E731
        zeros, ones = np.zeros_like(mean), np.ones_like(mean)

        def norm(y: Expr, *arrays: Array, **changed: Any) -> Expr:
            arguments = [self.constant(array) for array in arrays]
            return super(Rewritten, self).batch_norm(y, arguments, **{**options, **changed})

        whole = {"scale": True, "center": True}
        match self._choose(NORM):
            case "by hand":
                self.unread()
                root = self._plain("sqrt", self._plain("add", known(var), self.constant(eps)))
                y = self._plain("divide", self._plain("subtract", x, known(mean)), root)
                return self._plain("add", self._plain("multiply", y, known(gamma)), known(beta))
            case "as a map":
                self.unread()
                scale = gamma / np.sqrt(var + eps)
                y = self._plain("multiply", x, known(scale))
                return self._plain("add", y, known(beta - mean * scale))
            case "in two":
                y = norm(x, ones, zeros, mean, var, scale=False, center=False)
                scaled = self._plain("multiply", y, known(gamma))
                return self._plain("add", scaled, known(beta))
            case "ones and zeros":
                return norm(x, gamma, beta, mean, var, **whole)
            case "permuted":
                return self._there_and_back(norm(x, gamma, beta, mean, var, **whole))
            case "twice":
                half = norm(x, 0.5 * gamma, 0.5 * beta, mean, var, **whole)
                return self._plain("add", half, half)
        return norm(x, *map(self.array, statistics))
