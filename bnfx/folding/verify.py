"""Compares the folded answer with the original's."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bnfx.errors import CaptureError, VerificationError
from bnfx.folding.given import ExampleInputs, copied
from bnfx.folding.global_state import generators_kept, state_kept
from bnfx.passes.fx import Rewritten
from bnfx.passes.user_warnings import is_users
from bnfx.torch_private import FakeTensor, without_torch_functions


def allowed(verify: bool | float, answer: Any) -> float:
    """The largest relative error that ``verify`` allows.

    A number is itself. ``True`` is 1e-3, or 8 units of the least precise floating-point output
    where that is more (6e-2 for bfloat16, 8e-3 for float16): the original rounds as often.
    """
    if not isinstance(verify, bool):
        return float(verify)
    outputs = (leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor))
    units = [torch.finfo(leaf.dtype).eps for leaf in outputs if leaf.is_floating_point()]
    return max([1e-3, *(8 * unit for unit in units)])


def answer(model: nn.Module, inputs: ExampleInputs) -> Any:
    """The answer of ``model`` itself to copies of the inputs, with the same seed each time."""
    return answer_to(model, *inputs.copied())


def answer_to(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The answer of ``model`` itself, with the same seed each time."""
    return answer_and_changes(model, args, kwargs)[0]


def answer_and_changes(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, list[str]]:
    """The same, and which state of the process the model would leave other than it found it."""
    with torch.no_grad(), generators_kept(seed=0), state_kept() as changed:
        found = model(*args, **kwargs)
    return found, changed


def run_once(model: nn.Module, inputs: ExampleInputs) -> Any:
    """The answer of a copy of ``model`` to copies of the inputs.

    Raises:
        CaptureError: if it has none.
    """
    model = copied(model)
    try:
        return answer(model, inputs)
    except Exception as error:
        # Without torch's frames, which would bury the sentence; the model's own place is in it.
        raise CaptureError(
            f"the example inputs do not fit the model, which fails on them{_place(error)}: {error}"
        ) from None


def _place(error: Exception) -> str:
    """Where in the user's code it was raised."""
    walked = traceback.walk_tb(error.__traceback__)
    places = [(frame.f_code.co_filename, line) for frame, line in walked if is_users(frame)]
    return " at {}:{}".format(*places[-1]) if places else ""


def check_answers(
    model: nn.Module, folded: nn.Module, inputs: ExampleInputs, verify: bool | float
) -> None:
    """Compare both models on the inputs.

    Raises:
        VerificationError: if they differ by more than is allowed, and by more than the model
            itself does when its weights change in their last bit.
    """
    expected = answer(copied(model), inputs)
    error = relative_error(answer(copied(folded), inputs), expected)
    bound = allowed(verify, expected)
    if error > bound and isinstance(verify, bool):
        # What rounding does to this model, at its worst: nobody can tell that from a fold.
        bound = max(bound, 8 * relative_error(answer(_nudged_model(model), inputs), expected))
        with Coarsest() as inside:  # type: ignore[no-untyped-call]
            answer(copied(model), inputs)
        bound = max(bound, 8 * inside.unit)
        if relative_error(answer(copied(model), inputs), expected) > 0:
            return  # it gives another answer each time
    if error <= bound:
        return
    raise VerificationError(
        f"the folded model's answer differs by {error:.1e}, more than {bound:.1e}; "
        "raise verify= if the model amplifies rounding, else please report it"
    )


class Coarsest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The rounding unit of the least precise floating-point value that is computed within it, and
    whether random numbers are drawn.
    """

    unit = 0.0
    draws = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.draws |= torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self.unit = max(self.unit, torch.finfo(leaf.dtype).eps)
        return result


def _nudged_model(model: nn.Module) -> nn.Module:
    """A copy whose numbers are off by one unit in the last place."""
    model = copied(model)
    with torch.no_grad(), generators_kept():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(nudged(tensor))
    return model


def nudged(value: Any) -> Any:
    """Off by one unit in the last place, one way or the other, if it is of a floating point."""
    if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
        return value
    signs = torch.randint_like(value, 0, 2).mul_(2).sub_(1)
    return value + value * signs * torch.finfo(value.dtype).eps


def disagreement(
    module: fx.GraphModule,
    rewritten: Rewritten,
    example_inputs: Sequence[Any],
    verify: bool | float,
) -> str | None:
    """Run a captured graph and its folded form eagerly; what is wrong, or ``None``.

    Both run on copies, so inputs that the graph writes to are safe.
    """
    weights = rewritten.last_inputs()
    if weights is None or any(isinstance(value, FakeTensor) for value in example_inputs):
        return None  # under DDP's graph splitter there are no numbers to compare
    with torch.no_grad(), generators_kept(), without_torch_functions():
        state = torch.random.get_rng_state()
        expected = module(*map(_copied, example_inputs))
        torch.random.set_rng_state(state)
        actual = rewritten.module(*map(_copied, example_inputs), *weights)
    error, bound = relative_error(actual, expected), allowed(verify, expected)
    if error <= bound:
        return None
    return (
        f"bnfx: verification failed, relative error {error:.1e} is above {bound:.1e}; "
        "the unfolded graph is used"
    )


def _copied(value: Any) -> Any:
    value = hinted(value)
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def hinted(value: Any) -> Any:
    """A number in place of a symbolic one."""
    return value.node.hint if isinstance(value, torch.SymInt) else value


def relative_error(actual: Any, expected: Any) -> float:
    """Largest ``max|actual - expected| / max|expected|`` over the floating-point outputs.

    Tensors are compared in float64. NaN and infinities count as equal where both have the same;
    otherwise, and where structure, shape or dtype differ, the error is infinite.
    """
    ours, our_tree = pytree.tree_flatten(actual)
    theirs, their_tree = pytree.tree_flatten(expected)
    if our_tree != their_tree:
        return float("inf")
    return max((_error(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _error(actual: Any, expected: Any) -> float:
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        return _error(torch.as_tensor(actual), torch.as_tensor(expected))
    if not isinstance(expected, torch.Tensor):
        return 0.0 if not isinstance(actual, torch.Tensor) and actual == expected else float("inf")
    if not isinstance(actual, torch.Tensor) or actual.shape != expected.shape:
        return float("inf")
    if actual.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(actual, expected) else float("inf")
    ours, theirs = actual.detach().double(), expected.detach().double()
    finite = torch.isfinite(theirs)
    if not torch.equal(finite, torch.isfinite(ours)):
        return float("inf")
    if not torch.equal(torch.nan_to_num(ours[~finite]), torch.nan_to_num(theirs[~finite])):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = (ours[finite] - theirs[finite]).abs().max()
    largest = theirs[finite].abs().max()
    return float(difference / largest) if largest > 0 else float(difference)
