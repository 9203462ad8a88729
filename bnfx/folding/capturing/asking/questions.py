"""What a model's code asks of tensors besides their values and sizes, and whether it matters.

A capture answers once, for the example: that a tensor is contiguous, that its dtype is
``torch.float32``, that two arguments are one tensor, that no gradients are computed. A graph that
rests on an answer asserts it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from bnfx.folding.capturing.asking.asked import Asked, kind_of
from bnfx.folding.capturing.asking.modes import (
    AUTOCAST,
    DTYPE,
    GRADIENTS,
    asked_mode,
    is_users,
    module_of,
    profiled,
)

_DTYPE = ("dtype", "nbytes", "is_floating_point", "is_complex", "element_size", "itemsize", "type")
_LAYOUT = ("is_contiguous", "stride", "dim_order")
_GRADIENTS = ("requires_grad", "is_leaf", "grad_fn", "grad")
_PARAMETER = "Parameter"


class _Looks:
    """``isinstance(x, nn.Parameter)`` in this thread, while somebody notes it. Python calls
    ``__instancecheck__`` of the metaclass, which stands for all threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._here = threading.local()
        self._kind: Any = type(nn.Parameter)
        self._look: Any = self._kind.__instancecheck__

    def enter(self, names: set[str]) -> None:
        self._here.noting = (*getattr(self._here, "noting", ()), names)
        with self._lock:
            self._entered += 1
            if self._entered == 1:
                self._look = self._kind.__instancecheck__
                self._kind.__instancecheck__ = self._noted()

    def leave(self, names: set[str]) -> None:
        self._here.noting = tuple(n for n in self._here.noting if n is not names)
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                self._kind.__instancecheck__ = self._look

    def _noted(self) -> Callable[[Any, object], bool]:
        look = self._look

        def noted(asked: Any, instance: object) -> bool:
            noting = getattr(self._here, "noting", ())
            if noting and isinstance(instance, torch.Tensor) and _is_asked():
                for names in noting:
                    names.add(_PARAMETER)
            return bool(look(asked, instance))

        return noted


_looks = _Looks()


class Questions(TorchFunctionMode):
    """Notes what Python code other than torch's asks of tensors while it is entered."""

    def __init__(self, parameters: bool = False) -> None:
        """``parameters``: whether parameters are among the arguments; else they are the model's."""
        super().__init__()
        self._parameters = parameters
        self.names: set[str] = set()
        self._profile = profiled(self._note)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        about = args[0] if args else next(iter((kwargs or {}).values()), None)
        if (
            name in _DTYPE + _LAYOUT + _GRADIENTS
            and (self._parameters or type(about) is not nn.Parameter)
            and _is_asked()
        ):
            self.names.add(name)
        return func(*args, **(kwargs or {}))

    def _note(self, frame: FrameType, event: str, function: Any) -> None:
        mode = asked_mode(frame, event, function)
        if mode is not None:
            self.names.add(mode)

    def __enter__(self) -> Questions:
        _looks.enter(self.names)
        self._profile.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._profile.__exit__(None, None, None)
        _looks.leave(self.names)

    def asked(self) -> Asked:
        """What of that a graph must assert."""
        dtypes, layouts, gradients = (
            not self.names.isdisjoint(names) for names in (_DTYPE, _LAYOUT, _GRADIENTS)
        )
        return Asked(
            dtypes,
            layouts,
            parameters=_PARAMETER in self.names,
            gradients=gradients or GRADIENTS in self.names,
            autocast=AUTOCAST in self.names,
            default_dtype=DTYPE in self.names,
        )


def _is_asked() -> bool:
    """Whether the code that is two frames up is other than torch's and ours; some methods of a
    tensor are in Python.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and module_of(frame) in ("torch._tensor", "torch.overrides"):
        frame = frame.f_back
    return frame is not None and is_users(frame)


def apart(bound: inspect.BoundArguments) -> inspect.BoundArguments:
    """The arguments, of which no two are one tensor."""
    seen: set[int] = set()

    def own(tensor: torch.Tensor) -> torch.Tensor:
        repeated = id(tensor) in seen
        seen.add(id(tensor))
        return tensor.clone() if repeated else tensor

    return _with_tensors(bound, own)


def tells_tensors_apart(
    answer: Callable[[inspect.BoundArguments], Any], bound: inspect.BoundArguments
) -> bool:
    """Whether the answer depends on which arguments are one tensor, as ``key is value`` does.

    That is tried out, with arguments of the same rank that are all equal: as one tensor, as copies
    of it, and each two as one.

    Args:
        answer: takes arguments; the same ones give the same answer to the last bit.
        bound: the example.
    """
    tensors = [t for t in pytree.tree_leaves((bound.args, bound.kwargs)) if _is_plain(t)]
    firsts: dict[tuple[Any, ...], torch.Tensor] = {}
    numbers: defaultdict[tuple[Any, ...], int] = defaultdict(int)
    for tensor in tensors:
        firsts.setdefault(kind_of(tensor), tensor)
        numbers[kind_of(tensor)] += 1
    if all(number == 1 for number in numbers.values()):
        return False
    if any(not t.is_floating_point() and not torch.equal(t, firsts[kind_of(t)]) for t in tensors):
        return True  # an index is of its own table: the numbers of another may be out of its range
    one = _with_tensors(bound, lambda tensor: firsts[kind_of(tensor)])
    copies = apart(one)
    try:
        expected = answer(copies)
        return any(not _equal(answer(some), expected) for some in (one, *_pairs(copies)))
    except Exception:
        return True  # not for these numbers: then what the example's are is asserted


_MOST_PAIRS = 10


def _pairs(bound: inspect.BoundArguments) -> Iterator[inspect.BoundArguments]:
    """The arguments, of which each two in turn are one tensor; of many, neighbours only."""
    tensors = [t for t in pytree.tree_leaves((bound.args, bound.kwargs)) if _is_plain(t)]
    pairs = [p for p in itertools.combinations(tensors, 2) if kind_of(p[0]) == kind_of(p[1])]
    if len(pairs) > _MOST_PAIRS:
        pairs = [p for p in itertools.pairwise(tensors) if kind_of(p[0]) == kind_of(p[1])]
    for pair in pairs if len(tensors) > 2 else ():
        yield _with_tensors(bound, functools.partial(_as_first, pair))


def _as_first(pair: tuple[torch.Tensor, torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    return pair[0] if tensor is pair[1] else tensor


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _with_tensors(
    bound: inspect.BoundArguments, change: Callable[[torch.Tensor], torch.Tensor]
) -> inspect.BoundArguments:
    changed = pytree.tree_map(lambda v: change(v) if _is_plain(v) else v, dict(bound.arguments))
    return inspect.BoundArguments(bound.signature, changed)


def _equal(one: Any, other: Any) -> bool:
    ours, theirs = pytree.tree_leaves(one), pytree.tree_leaves(other)
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.equal(
            torch.nan_to_num(one), torch.nan_to_num(other)
        )
    return type(one) is type(other)
