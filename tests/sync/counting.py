"""Counts the collectives that run, in eager mode and in compiled graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.order: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.order.append(_name(func, args))
        if func.namespace == "_c10d_functional" and "wait" not in func.__name__:
            self.counts[func.__name__.split(".")[0].rstrip("_")] += 1
        return func(*args, **(kwargs or {}))


def _name(func: Any, args: Any) -> str:
    """A collective, its wait, or which gradients a convolution's backward computes."""
    name = func.__name__.split(".")[0].rstrip("_")
    return f"{name}{[int(part) for part in args[-1]]}" if name == "convolution_backward" else name


@contextmanager
def recording(*interesting: str) -> Iterator[list[str]]:
    """The names of the operators that run inside, in order, if they start like one of these."""
    found: list[str] = []
    with _Counting() as mode:
        yield found
    found += (name for name in mode.order if name.startswith(interesting))


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """The collectives that eager code runs inside."""
    with _Counting() as mode:
        yield mode.counts


class Graphs:
    """An inner compiler that keeps the graphs of forward and backward, and runs them."""

    def __init__(self) -> None:
        self.graphs: dict[str, list[fx.GraphModule]] = {"forward": [], "backward": []}

    def __call__(self, module: fx.GraphModule, example_inputs: Any) -> Any:
        compile_ = aot_autograd(
            fw_compiler=self._keep("forward"),
            bw_compiler=self._keep("backward"),
            partition_fn=min_cut_rematerialization_partition,  # as aot_eager and Inductor have it
        )
        return compile_(module, example_inputs)

    def _keep(self, way: str) -> Any:
        def compile_(module: fx.GraphModule, example_inputs: Any) -> Any:
            self.graphs[way].append(module)
            return make_boxed_func(module.forward)

        return compile_

    def counts(self, way: str) -> tuple[int, int]:
        """All-gathers and all-reduces in the graphs of forward or backward."""
        targets = [str(node.target) for graph in self.graphs[way] for node in graph.graph.nodes]
        return gathers(
            Counter(
                target.split(".")[1] for target in targets if target.startswith("_c10d_functional")
            )
        )


def gathers(counts: Counter[str]) -> tuple[int, int]:
    """All-gathers and all-reduces."""
    return counts["all_gather_into_tensor"], counts["all_reduce"]
