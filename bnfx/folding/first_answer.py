"""Whether a compiled graph's first answer is the model's, up to what its dtypes explain.

Some compilers compute in less than the model's dtype without a word (OpenVINO in bfloat16, where
the processor can: an error of 7.5e-3 where float32 gives 3.6e-7). The answer to the example inputs
tells.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from bnfx.errors import InnerWarning
from bnfx.folding.verify import Coarsest, allowed, hinted, nudged, relative_error
from bnfx.passes.fx.memory.aliasing import mutated_leaves
from bnfx.passes.fx.private import HigherOrderOperator, OpOverloadPacket
from bnfx.passes.user_warnings import warn
from bnfx.torch_private import FakeTensor, OpOverload, tracing, without_torch_functions

log = logging.getLogger("bnfx")

# An error so many times as large as PyTorch's own, against float64, is another order of the same
# sums.
MOST_WORSE = 16.0
# The relative error that float64 explains; float32 errs by more.
WIDE = 1e-9

# Operators that do nothing but compute; another may log, count, or wait for other processes.
_COMPUTES = frozenset({"aten", "prims", "torchvision"})
# Of functions that do.
_OWNERS = frozenset({"", "_operator", "builtins", "math", "operator", "torch"})

_THEN = {
    "warn": 'options={"first_answer": "forbid"} has PyTorch run such graphs',
    "forbid": "PyTorch runs the graph",
}


def may_serve(
    module: fx.GraphModule,
    compiled: Callable[..., Any],
    example_inputs: Sequence[Any],
    inner: object,
    choice: str,
) -> bool:
    """Whether ``compiled`` may serve, by its first answer; warns of one that rounding does not
    explain.

    Args:
        module, compiled, example_inputs: see :func:`unexplained`.
        inner: what compiled it: a name, or a callable.
        choice: the option ``first_answer``.
    """
    try:
        found = None if choice == "off" else unexplained(module, compiled, example_inputs)
    except Exception:  # out of memory, say: if the call itself fails, it is to say so
        log.debug("bnfx: the first answer could not be looked at", exc_info=True)
        return True
    if found is None:
        return True
    name = inner if isinstance(inner, str) else "the inner compiler"
    message = f"bnfx: {name} answers otherwise than PyTorch: {found}; {_THEN[choice]}"
    warn(message, InnerWarning)
    return choice == "warn"


def unexplained(
    module: fx.GraphModule, compiled: Callable[..., Any], example_inputs: Sequence[Any]
) -> str | None:
    """How the answer of ``compiled`` differs from that of ``module``; ``None`` if rounding explains
    it, or it cannot be told: there are no numbers yet, the graph writes to what it is given, draws
    random numbers or may have other effects, or its own answer is another one each time (somebody
    writes to the weights meanwhile).

    The bound is 1e-9 for a graph that computes in float64 alone; else that of ``verify=True``
    (:func:`bnfx.folding.verify.allowed`), for the least precise dtype that the graph itself
    computes in. Where an answer is beyond that, the same in float64 decides, or what a change in
    the last bit of the inputs makes: a model may amplify rounding, which PyTorch's answer then
    shows, too.

    Args:
        module: the captured graph, unfolded.
        compiled: takes the same inputs.
    """
    if any(isinstance(value, FakeTensor) for value in example_inputs):
        return None
    if mutated_leaves(module.graph, module) or not all(map(_may_run_again, module.graph.nodes)):
        return None
    return _compared(module, compiled, example_inputs)


def _may_run_again(node: fx.Node) -> bool:
    """Whether a run of the node that nobody asked for can be noticed by its answer alone. A
    collective that one rank alone runs would never end.
    """
    if node.op == "call_module":
        return False  # Dynamo leaves none but those of others
    if isinstance(node.target, (OpOverload, OpOverloadPacket)):
        return str(node.target).partition(".")[0] in _COMPUTES
    if isinstance(node.target, HigherOrderOperator):
        return False  # nobody looked at what its bodies do
    owner = getattr(node.target, "__module__", None) or ""  # names have none
    return owner.partition(".")[0] in _OWNERS and not owner.startswith("torch.distributed")


def _compared(
    module: fx.GraphModule, compiled: Callable[..., Any], example_inputs: Sequence[Any]
) -> str | None:
    # Not copied: folded weights are those of these tensors.
    args = list(map(hinted, example_inputs))
    devices = {a.device for a in args if isinstance(a, torch.Tensor) and a.is_cuda}
    context = torch.random.fork_rng(list(devices))
    # As Dynamo calls graphs: what weights with ``__torch_function__`` add is in the graph already.
    with torch.no_grad(), tracing(None), context, without_torch_functions():
        with Coarsest() as inside:  # type: ignore[no-untyped-call]
            expected = _leaves(module.forward(*args))
        if inside.draws:
            return None
        actual = _leaves(compiled(*args))
        error = relative_error(actual, expected)
        wide = 0 < inside.unit <= torch.finfo(torch.float64).eps
        bound = WIDE if wide else max(allowed(True, expected), 8 * inside.unit)
        if error <= bound or _no_worse(module, args, actual, expected):
            return None
        if relative_error(_leaves(module.forward(*args)), expected) > 0:
            return None
        # What steps (round, a quantiser) make of rounding.
        if error <= 8 * relative_error(_leaves(module.forward(*map(nudged, args))), expected):
            return None
    return f"its relative error is {error:.1e}, where rounding explains {bound:.1e}"


def _no_worse(module: fx.GraphModule, args: Sequence[Any], actual: Any, expected: Any) -> bool:
    """Whether an answer is as near to the exact one as PyTorch's is; false if there is none."""
    try:
        exact = _leaves(copy.deepcopy(module).double().forward(*map(_widened, args)))
    except Exception:  # an op that takes the model's dtype alone; no memory
        log.debug("bnfx: there is no exact answer to compare with", exc_info=True)
        return False
    exact = pytree.tree_map(_like, exact, expected)
    theirs = relative_error(expected, exact)
    return relative_error(actual, exact) <= MOST_WORSE * theirs


def _leaves(answer: Any) -> tuple[Any, ...]:
    """What a graph returns; some compilers make a list of it."""
    return tuple(pytree.tree_leaves(answer))


def _widened(value: Any) -> Any:
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if floats else value


def _like(exact: Any, expected: Any) -> Any:
    """In the dtype of the answer, as errors of its size are asked for."""
    return exact.to(expected.dtype) if isinstance(exact, torch.Tensor) else exact
