"""Linear layers on packed weights, as ops that Inductor calls and does not look into.

Inductor's own lowerings of these insist on weights that are constants. (Its convolutions do not.)
"""

from __future__ import annotations

import torch
from torch import fx


@torch.library.custom_op("bnfx::mkl_linear", mutates_args=())
def mkl_linear(
    input: torch.Tensor,
    packed: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    batch: int,
) -> torch.Tensor:
    """``input @ weight.T + bias`` with a weight that MKL packed for ``batch`` rows."""
    result: torch.Tensor = torch.ops.mkl._mkl_linear(input, packed, weight, bias, batch)
    return result


@mkl_linear.register_fake
def _(
    input: torch.Tensor,
    packed: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    batch: int,
) -> torch.Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


@torch.library.custom_op("bnfx::onednn_linear", mutates_args=())
def onednn_linear(
    input: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """``input @ weight.T + bias`` with a weight ``(out, in)`` that oneDNN packed."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
    return result


@onednn_linear.register_fake
def _(input: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return input.new_empty((*input.shape[:-1], packed.shape[0]))


def replace_in(graph: fx.Graph) -> None:
    """Let ``graph`` call these ops in place of what they wrap."""
    for node in graph.nodes:
        name = op_name(node)
        if name == "mkl::_mkl_linear":
            node.target = torch.ops.bnfx.mkl_linear.default
        elif name == "mkldnn::_linear_pointwise" and node.args[3:] == ("none", [], ""):
            node.target = torch.ops.bnfx.onednn_linear.default
            node.args = node.args[:3]


def op_name(node: fx.Node) -> str:
    """``"namespace::op"`` of a call of a torch op, overload or packet; else ``""``."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "_qualified_op_name", ""))
