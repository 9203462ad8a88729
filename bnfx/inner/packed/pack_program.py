"""How packed weights are made from plain ones: a straight line of ops, which can be pickled.

An ``fx.GraphModule`` would do, but it is traced anew whenever it is read, and an op in it does not
survive pickling as itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.private import OpOverloadPacket
from bnfx.torch_private import OpOverload, without_autocast


class PackingError(RuntimeError):
    """What Inductor's passes did cannot be done again with other weights."""


@dataclass(frozen=True)
class Value:
    """Stands, among the arguments of a step, for a weight, a constant or an earlier result.

    Args:
        at: its index: weights come first, constants next, then results, in order.
    """

    at: int


@dataclass(frozen=True, eq=False)
class Step:
    """One call.

    Args:
        op: the name of an op in ``torch.ops``, or a function.
        args, kwargs: with :class:`Value` in place of tensors.
    """

    op: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @staticmethod
    def of(node: fx.Node, values: Mapping[fx.Node, Value]) -> Step:
        """The call that ``node`` is."""
        look_up: Any = values.__getitem__
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), look_up)
        return Step(_named(node.target), _plain(args), _plain(kwargs))

    @property
    def reads(self) -> list[int]:
        found: list[int] = []
        fx.node.map_aggregate(
            (self.args, dict(self.kwargs)),
            lambda each: found.append(each.at) if isinstance(each, Value) else None,
        )
        return found

    def run(self, values: Sequence[Any]) -> Any:
        """Call it."""
        args, kwargs = fx.node.map_aggregate(
            (self.args, dict(self.kwargs)),
            lambda each: values[each.at] if isinstance(each, Value) else each,
        )
        op = operator.attrgetter(self.op)(torch.ops) if isinstance(self.op, str) else self.op
        return op(*args, **kwargs)


@dataclass(frozen=True)
class Layout:
    """What compiled code takes a tensor for; it does not look.

    Args:
        stride: ``None`` for what oneDNN packed.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...] | None

    @staticmethod
    def of(tensor: torch.Tensor) -> Layout:
        packed = tensor.layout != torch.strided
        return Layout(tuple(tensor.shape), None if packed else tensor.stride())

    def of_numbers(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same numbers, laid out so.

        Raises:
            PackingError: if there are more, or less.
        """
        if tensor.shape != self.shape:
            raise PackingError(f"{tuple(tensor.shape)} in place of a weight that is {self.shape}")
        if self.stride is None or tensor.stride() == self.stride:
            return tensor
        return tensor.new_empty_strided(self.shape, self.stride).copy_(tensor)


@dataclass(frozen=True, eq=False)
class PackProgram:
    """Makes the constants of a body from weights.

    Args:
        weights: the names of those that it reads, in order.
        constants: of the graph's own, of no weight.
        steps: in order.
        results: the values that are the constants of the body.
        layouts: theirs, as the body reads them.
    """

    weights: tuple[str, ...]
    constants: tuple[torch.Tensor, ...]
    steps: tuple[Step, ...]
    results: tuple[Value, ...]
    layouts: tuple[Layout, ...]

    def __call__(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Names of weights -> constants, in the order in which the body takes them."""
        with torch.inference_mode(False), torch.no_grad(), without_autocast():
            values: list[Any] = [tensors[name].detach() for name in self.weights]
            values.extend(self.constants)
            for step, over in zip(self.steps, self._over, strict=True):
                values.append(step.run(values))
                for at in over:
                    values[at] = None
            return [
                layout.of_numbers(values[each.at])
                for each, layout in zip(self.results, self.layouts, strict=True)
            ]

    @cached_property
    def _over(self) -> list[list[int]]:
        """After each step, the values that nothing reads any more."""
        over: list[list[int]] = [[] for _ in self.steps]
        seen = {each.at for each in self.results}
        for at in reversed(range(len(self.steps))):
            for read in self.steps[at].reads:
                if read not in seen:
                    seen.add(read)
                    over[at].append(read)
        return over


def _named(target: Any) -> str | Callable[..., Any]:
    if isinstance(target, (OpOverload, OpOverloadPacket)):
        return str(target)
    return target  # type: ignore[no-any-return]


def _plain(arguments: Any) -> Any:
    """Without the containers of fx."""
    if isinstance(arguments, dict):
        return {key: _plain(value) for key, value in arguments.items()}
    if isinstance(arguments, list | tuple):
        return tuple(map(_plain, arguments))  # ops take it for a list
    return arguments
