"""A captured graph as ATen operators without effects, for sizes that are known.

Weights are inputs of what is traced, so that a trace is right for any weights of the same shapes,
and is bound to them anew after a change.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from bnfx.inner.base import EngineRefusal
from bnfx.inner.late import LateInputs
from bnfx.passes.fx.lowering.bind import attribute
from bnfx.torch_private import FakeTensor, FakeTensorMode, tracing, without_autocast

_NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Traced:
    """A trace.

    Args:
        graph: its first placeholders are weights; every node has ``meta["val"]``.
        weights: their names, in order.
    """

    graph: fx.GraphModule
    weights: tuple[str, ...]

    def bound(self, module: fx.GraphModule) -> fx.GraphModule:
        """A copy whose weights are attributes: those of ``module``, not copied."""
        held, attributes = dict(_named(module)), dict[str, Any]()
        graph, values = fx.Graph(), dict[fx.Node, fx.Node]()
        for at, node in enumerate(self.graph.graph.nodes):
            if at >= len(self.weights):
                values[node] = graph.node_copy(node, values.__getitem__)
                if node.op == "get_attr":
                    attributes[node.target] = attribute(self.graph, node.target)
            elif node.users:
                name = f"weight_{at}"
                attributes[name] = held[self.weights[at]]
                values[node] = graph.get_attr(name)
                values[node].meta = dict(node.meta)
        return fx.GraphModule(attributes, graph)


def aten_graph(
    module: fx.GraphModule, args: Sequence[Any], opened: LateInputs | None = None
) -> Traced:
    """``module`` traced for inputs like ``args``.

    Args:
        module: holds its weights as attributes.
        args: tensors, of which sizes, strides and dtypes are read, and numbers.
        opened: the same with symbols for sizes, see :func:`open_inputs`.

    Raises:
        EngineRefusal: if it writes to what it is given, or what it returns shares memory.
    """
    refuse_effects(module, args)
    held = dict(_named(module))
    mode = FakeTensorMode(allow_non_fake_inputs=True) if opened is None else opened.mode
    with _alone(), mode:
        # Engines are given contiguous inputs, whatever the strides of a call.
        inputs = [_fake(value, contiguous=True) for value in args]
        plain = [_fake(value, contiguous=True) for value in held.values()]
        plain += inputs if opened is None else opened.fakes
        functional = torch.func.functionalize(_called(module, list(held)), remove="mutations")
        traced = make_fx(functional, _allow_non_fake_inputs=True)(*plain)
    traced.graph.eliminate_dead_code()
    return Traced(traced, tuple(held))


def open_inputs(captured: Sequence[Any], args: Sequence[Any]) -> LateInputs | None:
    """Inputs like ``args`` with symbols where Dynamo had them; ``None`` where it had none.

    Args:
        captured: what Dynamo knew each as.
    """
    known = [
        isinstance(value, torch.SymInt)
        or (
            isinstance(value, torch.Tensor)
            and any(isinstance(size, torch.SymInt) for size in value.shape)
        )
        for value in captured
    ]
    if not any(known):
        return None
    with _alone():
        return LateInputs.of(
            captured,
            [
                torch.empty_like(value, memory_format=torch.contiguous_format)
                if isinstance(value, torch.Tensor)
                else value
                for value in args
            ],
        )


def as_contiguous(args: Sequence[Any]) -> list[Any]:
    """Contiguous tensors of such sizes, without numbers."""
    return [
        torch.empty(value.shape, dtype=value.dtype, device="meta")
        if isinstance(value, torch.Tensor)
        else value
        for value in args
    ]


def refuse_effects(module: fx.GraphModule, args: Sequence[Any]) -> None:
    """Raise :class:`EngineRefusal` unless, for inputs like these, outputs are memory of their own
    and nothing else is written to.
    """
    held = dict(_named(module))
    with _alone(), FakeTensorMode(allow_non_fake_inputs=True):
        fakes = [_fake(value) for value in (*held.values(), *args)]
        _refuse_effects(_called(module, list(held)), fakes)


def on_fakes(module: fx.GraphModule, args: Sequence[Any]) -> Any:
    """What ``module`` returns for fake tensors, whose mode its weights get."""
    fake: Any = next(value for value in args if isinstance(value, FakeTensor))
    held = dict(_named(module))
    with torch.no_grad():
        weights = [fake.fake_mode.from_tensor(value) for value in held.values()]
        return _called(module, list(held))(*weights, *args)


def _called(module: fx.GraphModule, names: Sequence[str]) -> Callable[..., Any]:
    """``module`` as a function of its weights and its inputs.

    A copy is called, which shares its tensors: others may call ``module`` meanwhile.
    """
    shared = {id(value): value for _, value in _named(module)}
    own, count = copy.deepcopy(module, {**shared, **_no_meta(module)}), len(names)

    def call(*values: Any) -> Any:
        weights = dict(zip(names, values[:count], strict=True))
        return torch.func.functional_call(own, weights, tuple(values[count:]))

    return call


def _no_meta(module: fx.GraphModule) -> dict[int, Any]:
    """For ``copy.deepcopy``: what the graph keeps for others is not copied."""
    return {id(module.meta): {}}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Whatever the caller's modes are."""
    with (
        tracing(None),
        torch.utils._python_dispatch._disable_current_modes(),
        torch.inference_mode(False),
        torch.no_grad(),
        without_autocast(),
    ):
        yield


def widened(
    module: fx.GraphModule, args: Sequence[Any]
) -> tuple[fx.GraphModule, Callable[[Sequence[Any]], list[Any]]]:
    """``module`` in float32, if all its weights and ``args`` are of one narrower float dtype; and
    what its inputs are then. Numbers are rounded less often than in the module as it is.
    """
    values = (*args, *dict(_named(module)).values())
    kinds = {
        value.dtype
        for value in values
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    if len(kinds) != 1 or not kinds & set(_NARROW):
        return module, list
    return copy.deepcopy(module, _no_meta(module)).float(), lambda args: [
        value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for value in args
    ]


def signature(values: Sequence[Any]) -> object:
    """What a trace depends on, and a call's layout."""
    return tuple(
        (value.shape, value.stride(), value.dtype, value.device, value.is_neg(), type(value))
        if isinstance(value, torch.Tensor)
        else (type(value), value)
        for value in values
    )


def weights_signature(module: fx.GraphModule) -> object:
    """What a trace depends on of the weights."""
    held = dict(_named(module))
    return tuple(held), signature(tuple(held.values()))


def _fake(value: Any, contiguous: bool = False) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if contiguous:
        return torch.empty(value.shape, dtype=value.dtype, device=value.device)
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _refuse_effects(call: Callable[..., Any], values: Sequence[Any]) -> None:
    inputs = [value for value in values if isinstance(value, torch.Tensor)]
    versions = [value._version for value in inputs]
    answers = call(*values)
    if versions != [value._version for value in inputs]:
        raise EngineRefusal("it writes to an input")
    outputs = tuple(answers) if isinstance(answers, (tuple, list)) else (0,)
    if not all(value is None or isinstance(value, torch.Tensor) for value in outputs):
        raise EngineRefusal("what it returns is no tuple of tensors")
    memories = [
        value.untyped_storage()._cdata for value in (*inputs, *outputs) if value is not None
    ]
    theirs = set(memories[: len(inputs)])
    ours = memories[len(inputs) :]
    if theirs & set(ours) or len(ours) > len(set(ours)):
        raise EngineRefusal("an output is a view of an input or of another output")


def _named(module: fx.GraphModule) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
