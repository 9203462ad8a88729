"""Where outputs lie, of small functions that Dynamo captures, at several sizes.

The compiler behind gives equal values one memory and the others each their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inner.test_kept_memory import memory, merging
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from bnfx.inner.kept_memory import KeptMemory, keeping_memory
from bnfx.passes.fx.memory.output_memory import OutputMemory, View
from bnfx.passes.fx.memory.sizes_at_call import SizesAtCall

Inputs = tuple[Any, ...]
PLACE = "placeholder"


class Kept:
    """A backend that keeps memory, and does no more; notes what it read of each graph."""

    def __init__(self) -> None:
        self.read: list[OutputMemory] = []

    def __call__(self, module: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.read.append(OutputMemory.of(module))
        return keeping_memory(merging(self.read[-1].module, inputs), self.read[-1])


def lay(outputs: Any, inputs: Inputs) -> Any:
    """Numbers, strides, and which outputs lie where in the memory of which."""
    tensors = [each for each in outputs if isinstance(each, torch.Tensor)]
    held = [each for each in inputs if isinstance(each, torch.Tensor)]
    together = [
        [memory(one) == memory(other) and one.data_ptr() - other.data_ptr() for other in tensors]
        for one in tensors
        if one.numel()
    ]
    given = [[memory(one) == memory(other) for other in held] for one in tensors if one.numel()]
    strides = [
        [stride for stride, size in zip(each.stride(), each.shape, strict=True) if size > 1]
        for each in tensors
    ]
    numbers = [each.tolist() if isinstance(each, torch.Tensor) else each for each in outputs]
    return numbers, strides, together, given


def compiled(run: Callable[..., Any], *calls: Inputs, dynamic: bool | None = None) -> Kept:
    torch._dynamo.reset()
    kept = Kept()
    function = torch.compile(run, backend=kept, dynamic=dynamic)
    with torch.no_grad():
        for inputs in calls:
            assert lay(function(*inputs), inputs) == lay(run(*inputs), inputs)
    return kept


def some(*sizes: int) -> torch.Tensor:
    count = torch.Size(sizes).numel()
    return torch.linspace(-1, 1, count, dtype=torch.float64).reshape(sizes)


def _copied_row(x: torch.Tensor) -> Any:
    row = x[:1, 0].clone()  # its only row has the stride that it had in ``x``
    return row, row[:, 2:]


def _found(x: torch.Tensor) -> Any:
    found = (x > 0).nonzero()
    return found, found[:, 0], x + 1, (x < 0).nonzero(), (x < 0).nonzero()


def _zeroed(x: torch.Tensor) -> Any:
    y = x.exp()
    return y[:, 0].zero_(), y[:, 1:]


ZEROS, ONES = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
STATIC: dict[str, tuple[Callable[..., Any], Inputs]] = {
    "a row that was copied": (_copied_row, (some(3, 2, 4),)),
    "a shape of an input that nothing else reads": (
        lambda x, y: x.sum(1, keepdim=True).expand_as(y),
        (some(2, 3), some(2, 3)),
    ),
    "a number beside": (lambda x: (x.exp()[:, 1], 3, None, True), (some(2, 3),)),
    "a part without elements": (lambda x: (x.exp()[:, 3:], x.exp()), (some(2, 3),)),
}

STATIC |= {
    "parts around another value": (
        lambda x: (lambda y: (y[:, 1], x.cos(), y[:, 2]))(x.exp()),
        (some(2, 3),),
    ),
    "normalised by nothing": (
        lambda x: (F.batch_norm(x, ZEROS, ONES, eps=0.0), x.sum()),
        (some(2, 3),),
    ),
    "a part that is written alone": (_zeroed, (some(2, 3),)),
}


@pytest.mark.parametrize("name", STATIC)
def test_sizes_that_are_fixed(name: str) -> None:
    run, inputs = STATIC[name]
    assert len(compiled(run, inputs, inputs).read) == 1


# One graph for all sizes; where the outputs lie is computed anew at each.
OPEN: dict[str, tuple[Callable[..., Any], list[Inputs]]] = {
    "a view": (lambda x: (x.exp()[:, 1], x.exp()), [(some(n, 3),) for n in (4, 5, 3)]),
    "made of a size": (
        lambda x: (torch.full((x.shape[0],), 2.0) + 1, x[0] * 1),
        [(some(n, 3),) for n in (4, 5, 2)],
    ),
    "smaller than the input, and larger": (
        lambda x, y: (x.sum() + y, x * 1),
        [(some(n), some(m)) for n, m in ((6, 3), (3, 6), (4, 5))],
    ),
    "cut at a number that is given": (
        lambda x, n: x.exp()[:, :n],
        [(some(4, 5), n) for n in (2, 3, 4)],
    ),
    "a size beside": (
        lambda x: (x.shape[0], x.exp()[:, 1], x.shape[0] + 1),
        [(some(n, 3),) for n in (4, 5, 2)],
    ),
    "of two sizes": (
        lambda x, y: (x[:, None] * y).t(),
        [(some(n), some(m)) for n, m in ((6, 3), (3, 6), (4, 5))],
    ),
}


@pytest.mark.parametrize("name", OPEN)
def test_sizes_that_are_open(name: str) -> None:
    run, calls = OPEN[name]
    assert len(compiled(run, *calls, dynamic=True).read) == 1


def test_sizes_of_tensors_alone() -> None:
    """Dynamo passes sizes as arguments, too; a graph of another tracer may not."""
    torch._dynamo.reset()
    known: list[Any] = []

    def note(module: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        known.extend(node.meta["example_value"] for node in module.graph.find_nodes(op=PLACE))
        return module.forward

    torch.compile(lambda x: x.exp(), backend=note, dynamic=True)(some(4, 3))
    (tensor,) = (each for each in known if isinstance(each, torch.Tensor))
    sizes = SizesAtCall([None, tensor])
    numbers = sizes.of((*tensor.shape, tensor.shape[0] * 2, 7))
    assert numbers is not None
    assert [numbers((None, some(n, 3))) for n in (5, 6)] == [(5, 3, 10, 7), (6, 3, 12, 7)]
    assert SizesAtCall([None]).of(tensor.shape) is None


def _both_norms(x: torch.Tensor) -> Any:
    y = F.batch_norm(x, ZEROS, ONES)
    z = F.batch_norm(y[:, :, None].transpose(0, 2), ZEROS, ONES)
    return z, z[:, 1], y


# What shares memory here is as the compiler has it; numbers are right.
LEFT: dict[str, tuple[Callable[..., Any], Inputs]] = {
    "one of two norms is laid out as fake tensors do not know": (_both_norms, (some(2, 3),)),
    "a conjugate": (
        lambda x: (lambda z: (z, z.conj()[:, 1]))(torch.complex(x, x + 1)),
        (some(2, 3),),
    ),
    "a negative": (lambda x: torch.complex(x, x + 1).conj().imag[:, 1:], (some(2, 3),)),
    "parts of what the graph does not name": (
        lambda x: checkpoint(lambda y: (lambda z: (z[:1], z))(y * 2), x, use_reentrant=False),
        (some(2, 3),),
    ),
    "an end, and the whole": (
        lambda x: checkpoint(lambda y: (lambda z: (z[1:], z))(y * 2), x, use_reentrant=False),
        (some(2, 3),),
    ),
    "columns, and the whole": (
        lambda x: checkpoint(lambda y: (lambda z: (z[:, :2], z))(y * 2), x, use_reentrant=False),
        (some(2, 3),),
    ),
    "parts of the input": (lambda x: (x[:, 1], x[:1], x.exp()), (some(2, 3),)),
    "a part that requires no gradients": (
        lambda x: (lambda y: (y, y.detach()[:, 1]))(x.exp()),
        (some(2, 3).requires_grad_(),),
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_the_compiler(name: str) -> None:
    run, inputs = LEFT[name]
    torch._dynamo.reset()
    kept = Kept()
    outputs, expected = torch.compile(run, backend=kept)(*inputs), run(*inputs)
    assert not any(isinstance(each, View) for read in kept.read for each in read.outputs)
    for one, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(one.resolve_conj(), other.resolve_conj())
        assert one.requires_grad == other.requires_grad


def test_a_graph_with_nothing_to_do_is_itself() -> None:
    seen: list[fx.GraphModule] = []

    def note(module: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        seen.extend([module, OutputMemory.of(module).module])
        return module.forward

    torch._dynamo.reset()
    torch.compile(lambda x: (x.exp(), x.sum()), backend=note)(some(2, 3))
    assert seen[0] is seen[1]


def test_what_only_views_read_is_gone() -> None:
    (read,) = compiled(lambda x: x.exp()[:, 1:][1:], (some(4, 3),)).read
    assert [node.op for node in read.module.graph.nodes] == [PLACE, "call_method", "output"]


def test_sizes_that_the_inputs_do_not_tell() -> None:
    """What is found by its elements is as long as they say: that is left to the compiler."""
    torch._dynamo.reset()
    kept = Kept()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        outputs = torch.compile(_found, backend=kept, fullgraph=True)(some(3, 4))
    (read,) = kept.read
    assert not any(isinstance(each, View) for each in read.outputs)
    assert [each.tolist() for each in outputs] == [each.tolist() for each in _found(some(3, 4))]
    *_, one, other = outputs
    assert memory(one) != memory(other)


def test_what_is_given_whole_is_handed_on() -> None:
    """A view of all of it is not made anew, whichever name the graph returns it by."""

    def run(x: torch.Tensor) -> Any:
        whole = x.exp().view_as(x)
        return whole[:, 1], whole

    (read,) = compiled(run, (some(2, 3),)).read
    part, whole = read.outputs
    assert isinstance(part, View)
    assert part.base == whole == 0


def test_a_value_that_is_made_along_many_ways() -> None:
    """Each is walked once: there are as many as 2 to the power of 40."""

    def run(x: torch.Tensor) -> Any:
        for _ in range(40):
            x = x.sin() + x.cos()
        return x, x[:, 1]

    compiled(run, (some(2, 3),))


def test_a_graph_that_returns_no_tuple() -> None:
    """Not one of Dynamo's; nothing is read of it, and nothing done."""
    graph = fx.Graph()
    graph.output(graph.call_function(torch.exp, (graph.placeholder("x"),)))
    module = fx.GraphModule(nn.Module(), graph)
    read = OutputMemory.of(module)
    assert read.module is module
    assert not isinstance(keeping_memory(module.forward, read), KeptMemory)
