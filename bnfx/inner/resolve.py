"""The inner compiler by the name that the options give it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bnfx.errors import BuildError, OptionError
from bnfx.inner.base import Compiled, GraphPass, Inner, channels_last
from bnfx.options import Options, nearest

# Engines for inference, each a module of that name here.
ENGINES = ("openvino", "onnxruntime")


def resolve(options: Options, mode: str | None) -> Inner:
    """The inner compiler that the options name, and the layout that it gets weights in.

    Args:
        mode: of ``torch.compile(mode=...)``; for Inductor only.

    Raises:
        OptionError: if there is no such backend, or Inductor has no such option or mode.
    """
    inner = _named(options, mode)
    if options.weight_layout == "channels_last":
        inner = replace(inner, weight_layout=channels_last)
    return inner


def _named(options: Options, mode: str | None) -> Inner:
    if options.inner == "inductor":
        from bnfx.inner.inductor import inductor

        return inductor(options.inner_options, mode, options.cudnn_fusion)
    if mode is not None:
        raise OptionError(f"mode={mode!r} is for inner='inductor' only; use inner_options")
    if options.inner in ENGINES:
        from bnfx.inner.inductor import inductor

        module = importlib.import_module(f"bnfx.inner.{options.inner}")
        engine: Inner = module.inner(options.inner_options, inductor({}, None))
        return engine
    if options.inner == "tvm":
        return _tvm(options.inner_options)
    given = {"options": dict(options.inner_options)} if options.inner_options else {}
    if callable(options.inner):
        return Inner(functools.partial(options.inner, **given))
    if options.inner == "bnfx":
        raise OptionError(
            "inner='bnfx' would compile with itself; name the compiler to hand over to"
        )
    known = torch._dynamo.list_backends(exclude_tags=())
    if options.inner not in known:
        raise OptionError(f"unknown inner backend {options.inner!r}{nearest(options.inner, known)}")
    backend = torch._dynamo.lookup_backend(options.inner)
    return Inner(
        functools.partial(backend, **given),
        with_pass=_aot_eager_with if options.inner == "aot_eager" and not given else None,
    )


def _aot_eager_with(graph_pass: GraphPass) -> Inner:
    from torch._dynamo.backends.debugging import boxed_nop

    def backward(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        graph_pass(module.graph)
        module.recompile()
        return boxed_nop(module, list(example_inputs))

    backend: Callable[..., Any] = torch._dynamo.lookup_backend("aot_eager")
    return Inner(functools.partial(backend, bw_compiler=backward))


def _tvm(given: Mapping[str, Any]) -> Inner:
    try:
        from bnfx.inner.tvm import inner
    except BuildError as error:
        raise OptionError(f"inner='tvm': {error}") from None
    return inner(given)
