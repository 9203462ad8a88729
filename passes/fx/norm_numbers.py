"""The numbers of a graph's BatchNorms, for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnfx.passes.algebra import Expression
from bnfx.passes.details import NormNumbers
from bnfx.passes.fx.calls.call import Call
from bnfx.passes.fx.calls.modules import Attribute
from bnfx.passes.fx.parameters.sources import Sources
from bnfx.passes.graph import Affine, Node, Role
from bnfx.passes.values import Values


@dataclass(frozen=True)
class NormCall:
    """A BatchNorm as it was called.

    Args:
        variance, gamma, eps: what its arguments resolve to; ``gamma`` is ``None`` without one.
        momentum: as given.
        path: of the module that owns the statistics, where that is known.
    """

    variance: Expression
    gamma: Expression | None
    eps: Expression
    momentum: float | None
    path: str | None

    @staticmethod
    def read(call: Call, sources: Sources) -> NormCall:
        """The call of a BatchNorm that was read as an affine map, so all of it resolves."""
        arguments = call.arguments
        weight, momentum = arguments["weight"], arguments.get("momentum")
        variance: Any = sources.resolve(arguments["running_var"], "running variance")
        gamma: Any = None if weight is None else sources.resolve(weight, "weight")
        eps: Any = sources.resolve_scalar(arguments["eps"], "eps")
        path = _owner(arguments["running_var"])
        return NormCall(
            variance, gamma, eps, momentum if isinstance(momentum, (int, float)) else None, path
        )


def _owner(argument: object) -> str | None:
    """The path of the module whose tensor the argument is."""
    if isinstance(argument, Attribute):
        return argument.name.rpartition(".")[0]
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        return str(argument.target).rpartition(".")[0]
    return None


def norm_numbers(
    calls: Mapping[Node, NormCall], roles: Mapping[Node, Role], module: nn.Module, values: Values
) -> dict[Node, NormNumbers]:
    """The numbers of each BatchNorm that was read as an affine map.

    Args:
        calls: of these nodes.
        roles: from before the rules ran.
        module: to which the calls' paths belong.
    """
    found = {}
    for node, call in calls.items():
        role = roles[node]
        assert isinstance(role, Affine), "only what is read as a map is noted"
        found[node] = NormNumbers(
            eps=_numbers(values, call.eps)[0],
            momentum=call.momentum,
            scale=_numbers(values, role.map.scale),
            variance=_numbers(values, call.variance),
            gamma=() if call.gamma is None else _numbers(values, call.gamma),
            tracked=_tracked(module, call.path),
        )
    return found


def _numbers(values: Values, expression: Expression) -> tuple[float, ...]:
    array = torch.as_tensor(values.exact(expression))
    return tuple(array.reshape(-1).tolist())


def _tracked(module: nn.Module, path: str | None) -> int | None:
    try:
        count = None if path is None else module.get_submodule(path).num_batches_tracked
    except AttributeError:
        return None
    return int(count) if isinstance(count, torch.Tensor) else None
