"""What an example shows of a model: which modules run, and what they are given."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from bnfx.folding.given import ExampleInputs, copied
from bnfx.folding.modules.tree import is_scripted, modules_of
from bnfx.folding.verify import answer_to


def seen_inputs(
    model: nn.Module, inputs: ExampleInputs, paths: Collection[str]
) -> dict[str, tuple[Any, ...]]:
    """For each of the modules, a tensor like the one that it was given, if all had one rank."""
    if not inputs or not paths:
        return {}
    model = copied(model)
    found: dict[str, list[torch.Tensor | None]] = {}
    names = {module: name for name, module in modules_of(model) if name in paths}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        one = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor)
        found.setdefault(names[module], []).append(
            torch.empty(args[0].shape, dtype=args[0].dtype) if one else None
        )

    for module in names:
        module.register_forward_pre_hook(note, with_kwargs=True)
    args, kwargs = inputs.copied()
    answer_to(model, args, kwargs)
    return {
        path: (given[0],)
        for path, given in found.items()
        if len({None if g is None else (g.dim(), g.dtype) for g in given}) == 1
        and given[0] is not None
    }


def seen_running(model: nn.Module, inputs: ExampleInputs, paths: Collection[str]) -> list[str]:
    """Those of the modules that run on the example; all, if there is none."""
    if not inputs or not paths:
        return list(paths)
    model = copied(model)
    ran: set[nn.Module] = set()
    modules = dict(modules_of(model))
    for module in map(modules.__getitem__, paths):
        if is_scripted(module):
            ran.add(module)  # it takes no hooks
        else:
            module.register_forward_pre_hook(lambda module, _: ran.add(module))
    args, kwargs = inputs.copied()
    answer_to(model, args, kwargs)
    return [path for path in paths if modules[path] in ran]
