"""What it costs to know that folded weights are not stale: the check before every call.

Run as ``python -m bnfx.bench.check_cost``. Prints the microseconds of ``Snapshot.holds`` over the
parameters and buffers that resnet50's graph takes, and as a share of one compiled call at batch 1
(which contains it); and of which parts it consists.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import fx, nn

from bnfx.backend import bnfx
from bnfx.bench.on_models.image import image
from bnfx.bench.weights_speed import interleaved_ms
from bnfx.native import loader
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.weights import Snapshot

MODEL = "resnet50"
CHECKS = 2000
CALLS = 50


@dataclass(frozen=True)
class CheckCost:
    """Medians.

    Args:
        tensors: how many are checked.
        identity_us: microseconds for whether they are the same objects.
        content_us: microseconds for comparing what is compared of their content, in Python.
        check_us: microseconds of the whole check.
        call_us: microseconds of one compiled call.
    """

    tensors: int
    identity_us: float
    content_us: float
    check_us: float
    call_us: float


def measure() -> CheckCost:
    """The cost on :data:`MODEL`."""
    model: nn.Module = torchvision.models.get_model(MODEL, weights=None).eval()
    tensors: list[torch.Tensor] = []

    def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        tensors[:] = GraphInputs.of(graph, example_inputs).parameters.values()
        return bnfx(graph, example_inputs)

    with torch.no_grad():
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        compiled(image())
        (call_ms,) = interleaved_ms((compiled,), image(), CALLS)
    snapshot = Snapshot(tensors)
    assert snapshot.holds(tensors)
    return CheckCost(
        tensors=len(tensors),
        identity_us=_median_us(lambda: snapshot.is_of(tensors)),
        content_us=_median_us(snapshot.same_content),
        check_us=_median_us(lambda: snapshot.holds(tensors)),
        call_us=call_ms * 1e3,
    )


def _median_us(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(CHECKS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def main() -> None:
    cost = measure()
    print(
        f"{MODEL}: checking {cost.tensors} tensors takes {cost.check_us:.0f} us "
        f"({cost.identity_us:.0f} us of it to see that they are the same objects, "
        f"and {cost.content_us:.0f} us for Python to compare content), "
        f"{cost.check_us / cost.call_us:.1%} of a compiled call at batch 1 "
        f"({cost.call_us / 1e3:.1f} ms).\n"
        f"Medians of {CHECKS} checks and {CALLS} calls; {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}. Native check: {loader.state().sentence}."
    )


if __name__ == "__main__":
    main()
