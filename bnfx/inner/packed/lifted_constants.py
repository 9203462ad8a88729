"""Makes the constants of a graph that Inductor froze its inputs again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from bnfx.inner.packed import packed_ops
from bnfx.inner.packed.pack_program import PackingError
from bnfx.torch_private import detect_fake_mode


class LiftedConstants:
    """The constants of a frozen graph, by the attribute that held them; in order."""

    def __init__(self) -> None:
        self.values: dict[str, torch.Tensor] = {}
        self.examples: list[torch.Tensor] = []


def lift_constants(gm: fx.GraphModule, inputs: Sequence[Any]) -> LiftedConstants:
    """Make the constants of ``gm`` placeholders, behind those that it has."""
    mode = detect_fake_mode(inputs)
    if mode is None:
        raise PackingError("the graph has no input that is a tensor")
    lifted, placeholders = LiftedConstants(), {}
    last = gm.graph.find_nodes(op="placeholder")[-1]
    for node in gm.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        value = getattr(gm, name, None)
        if not isinstance(value, torch.Tensor):
            continue  # a nested graph
        if name not in placeholders:
            with gm.graph.inserting_after(last):
                last = placeholders[name] = gm.graph.placeholder(name)
            if value.layout is torch._mkldnn:  # type: ignore[attr-defined]
                with mode:
                    example = torch.empty(tuple(value.shape), dtype=value.dtype)
            else:
                example = mode.from_tensor(value.detach(), static_shapes=True)
            last.meta = {**node.meta, "val": example}
            lifted.values[name] = value
            lifted.examples.append(example)
        node.replace_all_uses_with(placeholders[name])
        gm.graph.erase_node(node)
    for name in lifted.values:
        delattr(gm, name)
    packed_ops.replace_in(gm.graph)
    gm.graph.lint()
    gm.recompile()
    # It has no constants any more, so its code may be cached.
    vars(gm)["_has_frozen_params"] = False
    return lifted
