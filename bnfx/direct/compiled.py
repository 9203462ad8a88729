"""``bnfx.compile``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from bnfx.direct.direct_calls import DirectCalls


class CompiledModule(OptimizedModule):
    """What torch.compile returns for a model, but for its calls.

    A call whose model, inputs and modes are as they were at an earlier one goes straight to the
    compiled graph; any other is torch.compile's.
    """

    _bnfx_calls: DirectCalls | None = None

    def __bool__(self) -> bool:
        """As the model is; torch's ``__len__``, which Dynamo 2.11 asks, raises if it has none."""
        return bool(self._orig_mod)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # within a larger graph, whose backend is another one
            model: Any = self._modules["_orig_mod"]
            return model(*args, **kwargs)
        calls = self._bnfx_calls
        if calls is None:
            calls = self._bnfx_calls = DirectCalls(self._orig_mod, self)
        found = calls.find(args, kwargs)
        if found is not None:
            shortcut, scope = found
            return shortcut.answer(scope)
        answer = super().__call__(*args, **kwargs)
        calls.learn(args, kwargs)
        return answer


def compile(
    model: nn.Module,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """``torch.compile(model, backend="bnfx")`` whose calls cost less.

    The first calls are torch.compile's. After that a call looks, in native code, whether anything
    was assigned in the model (parameters, buffers, submodules, flags, hooks), and evaluates those
    of Dynamo's guards that are about anything else (inputs, globals, grad mode, autocast, ...). If
    all is as it was, it goes straight to the compiled graph, which itself looks whether weights
    were written to, as ever. If not, torch.compile answers. So the answers are those of
    torch.compile, always.

    A model in training mode, one whose forward is computed at each call (by a property), breaks
    into several graphs, has effects other than its answer, or returns objects of other classes than
    tensors, tuples, lists and dicts, is torch.compile's alone.

    Args:
        model: in evaluation mode.
        fullgraph, dynamic, mode: as for ``torch.compile``.
        options: see :class:`bnfx.options.Options`.

    Raises:
        TypeError: if ``model`` is no ``torch.nn.Module``.
        OptionError: for an unknown option or value.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"bnfx.compile takes a torch.nn.Module, not {type(model).__name__}: for functions, use "
            'torch.compile(function, backend="bnfx")'
        )
    if isinstance(model, OptimizedModule):  # it is compiled anew
        model = model._orig_mod
    compiled: Any = torch.compile(
        model,
        backend="bnfx",
        fullgraph=fullgraph,
        dynamic=dynamic,
        mode=mode,
        options=None if options is None else dict(options),
    )
    if type(compiled) is OptimizedModule:
        compiled.__class__ = CompiledModule
    return cast(nn.Module, compiled)
