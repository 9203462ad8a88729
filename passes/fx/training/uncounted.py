"""Leaves out of a graph that batches are counted, where running statistics are left alone."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from bnfx.passes.fx.lowering.bind import copy_of
from bnfx.passes.fx.memory.aliasing import written_by
from bnfx.passes.fx.metadata import value_of


def without_counting(module: fx.GraphModule, layers: Collection[fx.Node]) -> fx.GraphModule:
    """``module`` without the writes to counters that the code of these BatchNorms does.

    A counter is an integer that the graph is given; its writer is of the module that calls the
    BatchNorm.

    Args:
        module: untouched; it comes back if nothing counts.
    """
    callers = {caller for node in layers if (caller := _caller(node)) is not None}
    counting = [node.name for node in module.graph.nodes if _counts(node, module, callers)]
    if not counting:
        return module
    copied = copy_of(module)
    for node in list(copied.graph.nodes):
        if node.name in counting:
            (counter,) = written_by(node, copied)
            node.replace_all_uses_with(counter)
            copied.graph.erase_node(node)
    copied.graph.lint()
    copied.recompile()
    return copied


def _caller(node: fx.Node) -> str | None:
    """The path of the module whose code the node comes from."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack and isinstance(stack[-1], tuple) else None


def _counts(node: fx.Node, module: fx.GraphModule, callers: Collection[str]) -> bool:
    if _caller(node) not in callers:
        return False
    written = list(written_by(node, module))
    if len(written) != 1 or written[0].op != "placeholder":
        return False
    value = value_of(written[0])
    return value is not None and value.dim() == 0 and not value.is_floating_point()
