"""Leaves out of a graph that batches are counted, where running statistics are left alone."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from bnfx.passes.fx.lowering.bind import attribute, copy_of
from bnfx.passes.fx.memory.aliasing import overwrites, written_by
from bnfx.passes.fx.metadata import value_of
from bnfx.passes.fx.training.synchronise import graphs_within


def without_counting(module: fx.GraphModule, layers: Collection[fx.Node]) -> fx.GraphModule:
    """``module`` without the writes to counters that the code of these BatchNorms does.

    A counter is an integer that the graph is given; its writer is of the module that calls the
    BatchNorm. Graphs within the graph (checkpointed blocks) count, too.

    Args:
        module: untouched; it comes back if nothing counts.
    """
    return _without(module, {caller for node in layers if (caller := _caller(node)) is not None})


def _without(module: fx.GraphModule, callers: Collection[str]) -> fx.GraphModule:
    counting = [node.name for node in module.graph.nodes if _counts(node, module, callers)]
    bodies = {path: _without(body, callers) for path, body in graphs_within(module)}
    if not counting and all(body is attribute(module, path) for path, body in bodies.items()):
        return module
    copied = copy_of(module)
    for path, body in bodies.items():
        owner, _, name = path.rpartition(".")
        setattr(copied.get_submodule(owner), name, body)
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
    if _caller(node) not in callers or not overwrites(node):
        return False  # what gives something else than what it writes has to be run
    written = list(written_by(node, module))
    if len(written) != 1 or written[0].op != "placeholder":
        return False
    value = value_of(written[0])
    return value is not None and value.dim() == 0 and not value.is_floating_point()
