"""Inductor as the inner compiler: live, frozen and packed weights, without its own folding."""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast
from unittest import mock

import torch
from torch import fx

from bnfx.errors import OptionError
from bnfx.inner.base import Compiled, GraphPass, Inner
from bnfx.inner.locks import compiling
from bnfx.inner.packed.packing import Packed
from bnfx.options import nearest


def inductor(given: Mapping[str, Any], mode: str | None, cudnn_fusion: str = "off") -> Inner:
    import torch._inductor

    known = torch._inductor.list_options()
    for key in given:
        if key.replace("-", "_") not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = (
                f"; did you mean {close[0]!r}?" if close else "; see torch._inductor.list_options()"
            )
            raise OptionError(f"Inductor has no option {key!r}{hint}")
    patches = {key.replace("-", "_"): value for key, value in given.items()}
    if mode is not None:
        modes = torch._inductor.list_mode_options()
        if mode not in modes:
            raise OptionError(f"unknown mode {mode!r}{nearest(mode, list(modes))}")
        patches = {**modes[mode], **patches}
    if cudnn_fusion != "off":
        from bnfx.inner.cudnn_fusion import with_fusion

        patches = with_fusion(patches, always=cudnn_fusion == "always")
    compile_ = functools.partial(_compile_inductor, patches=patches)
    with_pass = functools.partial(_inductor_with, patches=patches)
    plain = functools.partial(Inner, compile_, is_inductor=True, with_pass=with_pass)
    if patches.get("freezing", True) is False:
        return plain(unpackable="inner_options has freezing=False")
    freeze = functools.partial(_freeze_inductor, patches=patches)
    unpackable = _unpackable(patches)
    if unpackable:
        return plain(freeze=freeze, unpackable=unpackable)
    return plain(freeze=freeze, pack=functools.partial(_pack_inductor, patches=patches))


def _inductor_with(graph_pass: GraphPass, patches: Mapping[str, Any]) -> Inner:
    from torch._inductor import config

    name = "post_grad_custom_post_pass"
    if patches.get(name) or getattr(config, name):  # the user's own has the place
        return Inner(functools.partial(_compile_inductor, patches=patches), is_inductor=True)
    patches = {**patches, name: graph_pass}
    return Inner(functools.partial(_compile_inductor, patches=patches), is_inductor=True)


def _unpackable(patches: Mapping[str, Any]) -> str:
    """Why Inductor cannot take packed weights as inputs, with these options, if it cannot."""
    from torch._inductor import config

    for key in ("max_autotune", "max_autotune_gemm"):
        if patches.get(key, getattr(config, key)):
            return f"Inductor's {key} needs weights that are constants"
    return "" if torch._C._has_mkldnn else "this torch has no oneDNN"


def _compile_inductor(
    module: fx.GraphModule, example_inputs: Sequence[Any], patches: Mapping[str, Any]
) -> Compiled:
    from torch._inductor.compile_fx import compile_fx

    # Freezing is bnfx's own decision: it is safe only where constants are guarded.
    patches = {key: value for key, value in patches.items() if key != "freezing"}
    return cast(Compiled, compile_fx(module, list(example_inputs), config_patches=patches))


def _freeze_inductor(
    module: fx.GraphModule, example_inputs: Sequence[Any], patches: Mapping[str, Any]
) -> Compiled:
    from torch._inductor.compile_fx import compile_fx

    patches = {**patches, "freezing": True}
    with compiling(), torch.no_grad(), _without_inductor_folding():
        return cast(Compiled, compile_fx(module, list(example_inputs), config_patches=patches))


def _pack_inductor(
    module: fx.GraphModule,
    weights: Mapping[str, torch.Tensor],
    example_inputs: Sequence[Any],
    patches: Mapping[str, Any],
) -> Packed:
    from bnfx.inner.packed.packing import compile_packed

    with compiling(), torch.no_grad(), _without_inductor_folding():
        return compile_packed(module, weights, example_inputs, patches)


@contextlib.contextmanager
def _without_inductor_folding() -> Iterator[None]:
    """Freeze without Inductor's own ``binary_folding`` pass.

    That pass takes a constant's axis for channels by its size (``conv * w`` with ``w`` of shape
    (1, W) and W == C, error 3.3) and scales axis 0 of a transposed convolution (error 3.1). What
    may be folded, bnfx has folded by now.
    """
    from torch._inductor.fx_passes.freezing_patterns import binary_folding_pass

    # An ImportError or AttributeError is a torch whose pass has moved: the caller won't freeze.
    with mock.patch.object(binary_folding_pass, "apply", return_value=0):
        yield
