"""The numbers of a function's BatchNorms, for reports."""

from __future__ import annotations

from typing import Any

from bnfx.passes.details import NormNumbers
from bnfx.passes.graph import Affine
from bnfx.passes.report import Site
from bnfx.passes.tvm.dataflow import Value
from bnfx.passes.tvm.lift import LiftedFlow
from bnfx.passes.values import Values


def norm_numbers(lifted: LiftedFlow, values: Values) -> dict[Site, NormNumbers]:
    """The numbers of each BatchNorm that was read as an affine map; call it before the rules run.

    Args:
        lifted: the function.
        values: of its constants.
    """
    found = {}
    for node in lifted.graph:
        call = node.origin
        if (
            not isinstance(call, Value)
            or call.op != "nn.batch_norm"
            or not isinstance(node.role, Affine)
        ):
            continue
        attrs, (_, gamma, _, _, variance) = call.attrs, call.args
        found[node.sites[0]] = NormNumbers(
            eps=float(attrs.epsilon),
            momentum=float(attrs.momentum) if hasattr(attrs, "momentum") else None,
            scale=_flat(values.exact(node.role.map.scale)),
            variance=_flat(lifted.constants.value(variance)),
            gamma=_flat(lifted.constants.value(gamma)) if attrs.scale else (),
        )
    return found


def _flat(array: Any) -> tuple[float, ...]:
    return tuple(array.reshape(-1).tolist())
