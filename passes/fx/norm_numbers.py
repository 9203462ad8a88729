"""The numbers of a graph's BatchNorms, for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bnfx.passes.algebra import Expression
from bnfx.passes.details import NormNumbers
from bnfx.passes.fx.calls.call import Call
from bnfx.passes.fx.parameters.sources import Sources
from bnfx.passes.graph import Affine, Node, Role
from bnfx.passes.report import Site
from bnfx.passes.values import Values


@dataclass(frozen=True)
class NormCall:
    """A BatchNorm as it was called.

    Args:
        variance, gamma, eps: what its arguments resolve to; ``gamma`` is ``None`` without one.
        momentum: as given.
    """

    variance: Expression
    gamma: Expression | None
    eps: Expression
    momentum: float | None

    @staticmethod
    def read(call: Call, sources: Sources) -> NormCall:
        """The call of a BatchNorm that was read as an affine map, so all of it resolves."""
        arguments = call.arguments
        weight, momentum = arguments["weight"], arguments.get("momentum")
        variance: Any = sources.resolve(arguments["running_var"], "running variance")
        gamma: Any = None if weight is None else sources.resolve(weight, "weight")
        eps: Any = sources.resolve_scalar(arguments["eps"], "eps")
        return NormCall(
            variance, gamma, eps, momentum if isinstance(momentum, (int, float)) else None
        )


def norm_numbers(
    calls: Mapping[Node, NormCall], roles: Mapping[Node, Role], values: Values
) -> dict[Site, NormNumbers]:
    """The numbers of each BatchNorm that was read as an affine map; call it before the rules run.

    Args:
        calls: of these nodes.
        roles: from before the rules ran.
    """
    found = {}
    for node, call in calls.items():
        role = roles[node]
        assert isinstance(role, Affine), "only what is read as a map is noted"
        found[node.sites[0]] = NormNumbers(
            eps=_numbers(values, call.eps)[0],
            momentum=call.momentum,
            scale=_numbers(values, role.map.scale),
            variance=_numbers(values, call.variance),
            gamma=() if call.gamma is None else _numbers(values, call.gamma),
        )
    return found


def _numbers(values: Values, expression: Expression) -> tuple[float, ...]:
    array = torch.as_tensor(values.exact(expression))
    return tuple(array.reshape(-1).tolist())
