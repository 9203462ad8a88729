"""Ranks that disagree; see test_diagnosis.py. Each case names what every rank must be told."""

from __future__ import annotations

import datetime
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn

import bnfx


def layers(*channels: int) -> nn.ModuleDict:
    named = {f"norm{place}": nn.BatchNorm1d(count) for place, count in enumerate(channels)}
    model = nn.ModuleDict(named)
    bnfx.convert_sync_batchnorm(model)
    return model


def case_they_agree() -> None:
    model = layers(4)
    x = torch.randn(3 + dist.get_rank(), 4, requires_grad=True)
    for run in (model["norm0"], torch.compile(model["norm0"], backend="aot_eager", fullgraph=True)):
        for _ in range(4):
            run(x).square().sum().backward()


def case_another_layer() -> None:
    """The last rank takes its layers in another order."""
    model, last = layers(4, 4), dist.get_world_size() - 1
    order = ["norm1", "norm0"] if dist.get_rank() == last else ["norm0", "norm1"]
    with pytest.raises(bnfx.MismatchError) as error:
        model[order[0]](torch.randn(3, 4))
    text = str(error.value)
    assert f"rank {last} would not share the same statistics as the others: other layer" in text
    assert f"rank {last}: way=forward; layer=norm1; channels=4" in text
    assert "rank 0: way=forward; layer=norm0; channels=4" in text


def case_other_channels() -> None:
    last = dist.get_world_size() - 1
    model = layers(5 if dist.get_rank() == last else 4)
    with pytest.raises(bnfx.MismatchError, match=f"rank {last} .*: other channels, dimensions\n"):
        model["norm0"](
            torch.randn(3, model["norm0"].num_features, *[2] * (dist.get_rank() == last))
        )


def case_another_dtype() -> None:
    last = dist.get_world_size() - 1
    dtype = torch.float64 if dist.get_rank() == last else torch.float32
    with pytest.raises(bnfx.MismatchError, match=r"statistics=torch\.float64"):
        layers(4).to(dtype)["norm0"](torch.randn(3, 4, dtype=dtype))


def case_no_gradient_on_one_rank() -> None:
    """It would not join the all-reduce of backward."""
    x = torch.randn(3, 4, requires_grad=dist.get_rank() == 0)
    with pytest.raises(bnfx.MismatchError, match="other gradients\n"):
        layers(4)["norm0"](x)


def case_compiled() -> None:
    """Inside the backend's graph, by the names of the user's modules."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
            self.swapped = dist.get_rank() == dist.get_world_size() - 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.swapped:
                return self.first(self.second(x))
            return self.second(self.first(x))

    run = torch.compile(Net(), backend="bnfx", options={"inner": "aot_eager"}, fullgraph=True)
    with pytest.raises(bnfx.MismatchError, match="layer=second"):
        run(torch.randn(3, 4))


def case_one_evaluates() -> None:
    """The last rank is in evaluation mode, which does not communicate: its peer is told.

    In a group of two, so that nobody waits, however short, for a rank that is merely slow.
    """
    last = dist.get_world_size() - 1
    group = dist.new_group([0, last])
    model = layers(4)
    norm = model["norm0"]
    norm.process_group = group
    x = torch.randn(3, 4)
    if dist.get_rank() == last:
        norm.eval()(x)
    dist.barrier()
    if dist.get_rank() == 0:
        group._get_backend(x.device).options._timeout = datetime.timedelta(seconds=1)
        with pytest.raises(
            bnfx.MismatchError, match=rf"rank {last} .*ran norm0 in evaluation mode"
        ):
            norm(x)
    dist.barrier()


def case_one_dies() -> None:
    """The others end with an error, in time."""
    model = layers(4)
    model["norm0"].path = ""
    x = torch.randn(3, 4)
    if dist.get_rank() == dist.get_world_size() - 1:
        os._exit(0)
    with pytest.raises(RuntimeError):
        model["norm0"](x)
    os._exit(0)  # there is no group left to be destroyed


def case_one_dies_before_a_graph() -> None:
    """The others are told which layer waited, in a graph and outside of one."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    run = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    dist.barrier()
    if dist.get_rank() == dist.get_world_size() - 1:
        os._exit(0)
    for stance in ("default", "force_eager"):
        told = pytest.raises(bnfx.SyncError, match=r"rank 0 was to share .* of BatchNorm 1, and a")
        with torch.compiler.set_stance(stance), told:
            run(torch.randn(3, 4))
    os._exit(0)


def case_one_dies_before_backward() -> None:
    """In a graph, outside of one, and in a layer that nobody compiled."""
    compiled = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    run = torch.compile(compiled, backend="bnfx", options={"inner": "aot_eager"})
    outputs = [run(torch.randn(3, 4))]
    with torch.compiler.set_stance("force_eager"):
        outputs.append(run(torch.randn(3, 4)))
    outputs.append(layers(4)["norm0"](torch.randn(3, 4, requires_grad=True)))
    dist.barrier()
    if dist.get_rank() == dist.get_world_size() - 1:
        os._exit(0)
    for output, layer in zip(outputs, ("1", "1", "norm0"), strict=True):
        with pytest.raises(bnfx.SyncError, match=rf"rank 0 was to share .* of BatchNorm {layer},"):
            output.square().sum().backward()
    os._exit(0)


# Those in which a rank dies leave no group for the next: each is run by itself.
WORLDS = {3: tuple(name for name in globals() if name.startswith("case_") and "dies" not in name)}
