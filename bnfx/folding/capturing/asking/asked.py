"""What a graph asserts of what a model's code asked while it was captured."""

from __future__ import annotations

import builtins
import itertools
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnfx.folding.capturing.argument_checks import (
    assert_absent,
    assert_class,
    assert_torchs,
    say,
)


@dataclass(frozen=True)
class Asked:
    """What a graph must assert of its tensors.

    Args:
        dtypes: whether their dtypes.
        layouts: whether how they lie in memory.
        identities: whether which of them are one tensor.
        parameters: whether which of them are parameters.
        gradients: whether they require gradients, and whether a call computes any.
        autocast: whether a call runs under autocast.
        default_dtype: whether ``torch.get_default_dtype()`` is what it was.
        classes: whether they are of torch's own classes.
        absent: attributes that none of them has.
    """

    dtypes: bool = False
    layouts: bool = False
    identities: bool = False
    parameters: bool = False
    gradients: bool = False
    autocast: bool = False
    default_dtype: bool = False
    classes: bool = False
    absent: frozenset[str] = frozenset()

    def write(self, graph: fx.Graph, node: fx.Node, name: str, value: torch.Tensor) -> None:
        """Assert it of one argument. Floating point is floating point, unless the dtype was asked
        for: a graph may be converted with ``half()``.
        """
        if self.dtypes or not value.is_floating_point():
            kind = graph.call_function(builtins.getattr, (node, "dtype"))
            same = graph.call_function(operator.eq, (kind, value.dtype))
            say(graph, same, f"{name} of {value.dtype}")
        else:
            floats = graph.call_method("is_floating_point", (node,))
            say(graph, floats, f"{name} of a floating-point dtype")
        # Python asks nobody whether a tensor is a parameter, or of a class that is the example's.
        known = type(value).__module__.partition(".")[0] == "torch"
        if self.parameters or type(value) is nn.Parameter or not known:
            assert_class(graph, node, value, name)
        elif self.classes:
            assert_torchs(graph, node, name)
        for attribute in sorted(self.absent):
            assert_absent(graph, node, attribute, name)
        if self.layouts:
            self._write_layout(graph, node, name, value)
        if self.gradients:
            wanted = graph.call_function(builtins.getattr, (node, "requires_grad"))
            same = graph.call_function(operator.eq, (wanted, value.requires_grad))
            say(graph, same, f"{name} with requires_grad={value.requires_grad}")

    def _write_layout(self, graph: fx.Graph, node: fx.Node, name: str, value: torch.Tensor) -> None:
        for layout in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
            rank = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(layout, value.dim())
            if rank == value.dim() and value.is_contiguous(memory_format=layout):
                same = graph.call_method("is_contiguous", (node,), {"memory_format": layout})
                say(graph, same, f"{name} in {layout}")
                return
        strides = graph.call_method("stride", (node,))
        same = graph.call_function(operator.eq, (strides, value.stride()))
        say(graph, same, f"{name} of strides {value.stride()}")

    def write_modes(self, graph: fx.Graph, leaves: list[tuple[fx.Node, str, Any]]) -> None:
        """Assert the modes that a call runs in, of those that were asked for.

        By what they do to a tensor: to ask for a mode is no op, so that a graph which is traced
        once more, as when it is unpickled, would have the answer for good.
        """
        tensors = ((node, value) for node, _, value in leaves if isinstance(value, torch.Tensor))
        place, example = next(tensors, (None, None))
        if place is None or example is None:
            return
        if self.gradients:
            new = graph.call_method("new_ones", (place, 1), {"dtype": torch.float32})
            leaf = graph.call_method("requires_grad_", (new,))
            result = graph.call_method("neg", (leaf,))
            wanted = graph.call_function(builtins.getattr, (result, "requires_grad"))
            without = graph.call_function(operator.eq, (wanted, False))
            say(graph, without, "calls under torch.no_grad()")
        if self.autocast:
            new = graph.call_method("new_ones", (place, (1, 1)), {"dtype": torch.float32})
            product = graph.call_method("mm", (new, new))
            kind = graph.call_function(builtins.getattr, (product, "dtype"))
            one = example.new_ones(1, 1, dtype=torch.float32)
            expected = one.mm(one).dtype
            under = "out" if expected == torch.float32 else f" {expected}"
            same = graph.call_function(operator.eq, (kind, expected))
            say(graph, same, f"calls with{under} autocast")
        if self.default_dtype:
            rank = graph.call_method("dim", (place,))
            new = graph.call_function(torch.ones, (rank,))
            kind = graph.call_function(builtins.getattr, (new, "dtype"))
            default = torch.get_default_dtype()
            same = graph.call_function(operator.eq, (kind, default))
            say(graph, same, f"a default dtype of {default}")

    def write_identities(self, graph: fx.Graph, leaves: list[tuple[fx.Node, str, Any]]) -> None:
        """Assert which arguments are one tensor, as the example's are, and which are not."""
        tensors = [leaf for leaf in leaves if isinstance(leaf[2], torch.Tensor)]
        for (first, name, one), (second, other_name, other) in itertools.combinations(tensors, 2):
            if not self.identities or kind_of(one) != kind_of(other):
                continue
            test, word = (operator.is_, "is") if one is other else (operator.is_not, "is not")
            same = graph.call_function(test, (first, second))
            same.meta["is_wrapped"] = True
            say(graph, same, f"inputs where {name} {word} {other_name}")


NOTHING = Asked()


def kind_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What tensors share that may be one in another call, where open sizes may agree."""
    kind = "float" if tensor.is_floating_point() else tensor.dtype
    return (tensor.dim(), kind, tensor.device)
