"""``bnfx.sync_batch_norm``: BatchNorm over the batch of all ranks, as a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from bnfx.errors import SyncError
from bnfx.options import check_process_group
from bnfx.sync.collectives import gather
from bnfx.sync.diagnosis import compared
from bnfx.sync.group import Peers, is_distributed_tensor, peers_of
from bnfx.sync.identities.identity import combined, of_one_layer
from bnfx.sync.moments import local_moments
from bnfx.sync.normalise import Normalise
from bnfx.sync.settled import pack, settle
from bnfx.sync.waiting import naming_layers


@dataclass(frozen=True)
class Layer:
    """One BatchNorm in training, as :func:`sync_batch_norm` takes it; ``name`` is for people."""

    input: torch.Tensor
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    momentum: float | torch.Tensor
    eps: float
    name: str = ""
    identity: int = 0  # see bnfx.sync.identities.identity

    def __post_init__(self) -> None:
        if self.input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, not {self.input.dim()}")
        if not self.input.is_floating_point():
            raise TypeError(f"expected a real floating-point input, not {self.input.dtype}")
        if is_distributed_tensor(self.input):
            raise TypeError(
                "a DTensor cannot share its statistics: hand over its to_local() where it is "
                "sharded along the batch, with the process group of that dimension of its mesh"
            )
        if (self.running_mean is None) != (self.running_var is None):
            raise ValueError("running_mean and running_var must both be None, or neither")
        for name in ("running_mean", "running_var", "weight", "bias"):
            tensor, channels = getattr(self, name), self.input.shape[1]
            if tensor is not None and tensor.shape != (channels,):
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, the input {channels} channels"
                )

    @property
    def dtype(self) -> torch.dtype:
        """Of the statistics, float32 or wider.

        The layer's own tensors decide it, which ranks have alike; inputs need not be (an empty
        batch often has another dtype), so theirs counts only where there is nothing else.
        """
        own = [t for t in (self.weight, self.bias, self.running_mean) if t is not None]
        dtype = torch.float32
        for tensor in own or [self.input]:
            dtype = torch.promote_types(dtype, tensor.dtype)
        return dtype


def sync_batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    momentum: float | torch.Tensor = 0.1,
    eps: float = 1e-5,
    group: Any = None,
) -> torch.Tensor:
    """BatchNorm in training, over the concatenated batch of all ranks of ``group``.

    The same results as ``F.batch_norm(training=True)`` on that batch: output, all gradients (of the
    sum of all ranks' losses; weight and bias get this rank's share, which data parallelism adds
    up), and running statistics. One all-gather forward (count, mean, M2 of each channel, at least
    float32), one all-reduce backward. No rank waits for its device; a compiler can trace it.

    Ranks may have batches of different sizes, or none at all. Where there is a single value a
    channel over all ranks, the output is ``bias`` and ``running_var`` stays as it is, since the
    unbiased variance is undefined; where there is none, both running statistics stay, and all
    gradients are zero.

    Args:
        input: shape ``(N, C, ...)``, any number of dimensions from 2 on. Layout and dtype are kept.
        running_mean, running_var: shape ``(C,)``, updated in place; both ``None`` for none.
        weight, bias: shape ``(C,)``, or ``None``.
        momentum: weight of the new statistics; a 0-d tensor if it is computed (as ``1/count`` for
            a cumulative average).
        eps: added to the variance.
        group: a process group; ``None`` for the default one. All its ranks must make this call,
            and all or none must have an ``input`` that requires a gradient. Where there are no
            peers (no group is up, one rank, a rank outside the group), it is local BatchNorm.

    Raises:
        OptionError: if ``group`` is not a process group.
        SyncError: within ``torch.func.grad`` or ``vmap``, where there are peers.
        ValueError: for fewer than 2 dimensions, or shapes that do not fit.
        TypeError: for an input of integers or complex numbers, or a ``DTensor``.
    """
    if not torch.compiler.is_compiling():
        check_process_group(group)
    layer = Layer(input, running_mean, running_var, weight, bias, momentum, eps)
    return normalise(layer, peers_of(group))


def normalise(layer: Layer, peers: Peers | None) -> torch.Tensor:
    """The output of one layer; local where there are no peers."""
    if peers is not None:
        size = 1 if layer.identity else 0
        return synchronise([layer], peers, layer.input.new_zeros(size, dtype=layer.dtype))[0]
    x, weight, bias, eps = layer.input, layer.weight, layer.bias, layer.eps
    mean, var, momentum = layer.running_mean, layer.running_var, layer.momentum
    if mean is None or var is None or not isinstance(momentum, torch.Tensor):
        return F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)  # type: ignore[arg-type]
    # No float of the tensor: that would wait for the device, and break a compiler's graph.
    new_mean, new_var = torch.zeros_like(mean), torch.zeros_like(var)
    output = F.batch_norm(x, new_mean, new_var, weight, bias, True, 1.0, eps)
    with torch.no_grad():
        mean.lerp_(new_mean, momentum.to(mean.dtype))
        var.lerp_(new_var, momentum.to(var.dtype))
    return output


def synchronise(
    layers: Sequence[Layer], peers: Peers, token: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The outputs of several layers that share their collectives, and the token at the end.

    Args:
        layers: independent of one another; one dtype of statistics.
        peers: who takes part.
        token: see :mod:`bnfx.sync.normalise`.
    """
    if not torch.compiler.is_dynamo_compiling() and (
        torch._C._functorch.peek_interpreter_stack() or any(_is_dual(each) for each in layers)
    ):
        raise SyncError(
            "torch.func.grad, vmap, forward-mode gradients and their like cannot go through "
            "statistics that ranks share: "
            "use backward() or torch.autograd.grad, or make the layers local for it with "
            'bnfx.revert_sync_batchnorm, or sync="off"'
        )
    dtype = token.dtype
    with torch.no_grad():
        sizes = [1 + 2 * layer.input.shape[1] for layer in layers]
        moments = [local_moments(layer.input, dtype) for layer in layers]
        what = _described(layers, dtype) if peers.debug else ""
        identity = combined([layer.identity for layer in layers])
        row = pack(token, identity, moments)
        if what:
            row = compared(row, f"way=forward; {what}", peers.name)
        names = ", ".join([layer.name or "of no name" for layer in layers])
        if torch.compiler.is_compiling():  # the compiled graph is watched as a whole
            gathered = gather(row, peers.name, peers.size)
        else:
            with naming_layers(lambda: names, peers.name):
                gathered = gather(row, peers.name, peers.size)
        if token.numel():
            gathered = of_one_layer(gathered, identity, names, peers.name)
        columns = torch.split(gathered, [token.numel(), *sizes], dim=1)
        fresh = columns[0][0]
        settled = [
            settle(each, layer.running_mean, layer.running_var, layer.momentum, layer.eps)
            for layer, each in zip(layers, columns[1:], strict=True)
        ]
    tensors: list[Any] = []
    for layer, (total, mean, invstd) in zip(layers, settled, strict=True):
        weight = None if layer.weight is None else layer.weight.to(dtype)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        tensors += [layer.input, weight, bias, mean, invstd, total]
    outputs: tuple[torch.Tensor, ...] = Normalise.apply(
        peers.name, what, names, identity, token, fresh, *tensors
    )
    return outputs


def _is_dual(layer: Layer) -> bool:
    """Whether its input carries a tangent."""
    dual = forward_ad.unpack_dual(layer.input)  # type: ignore[no-untyped-call]
    return dual.tangent is not None


def _described(layers: Sequence[Layer], dtype: torch.dtype) -> str:
    """What ranks must have alike; batches and images may well differ in size."""
    fields = {
        "layer": [layer.name or "?" for layer in layers],
        "channels": [str(layer.input.shape[1]) for layer in layers],
        "dimensions": [str(layer.input.dim()) for layer in layers],
        "statistics": [str(dtype)],
        "gradients": [str(layer.input.requires_grad) for layer in layers],
    }
    return "; ".join([f"{key}={','.join(values)}" for key, values in fields.items()])
