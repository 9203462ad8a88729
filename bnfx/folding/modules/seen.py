"""What an example shows of a model: what its modules are given, and who reads what they return."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn

from bnfx.folding.capturing.capture import capture
from bnfx.folding.given import ExampleInputs, copied
from bnfx.folding.modules.succession import Pair


def seen_inputs(
    model: nn.Module, inputs: ExampleInputs, paths: Collection[str]
) -> dict[str, tuple[Any, ...]]:
    """For each of the modules, a tensor like the one that it was given, if all had one rank."""
    if not inputs or not paths:
        return {}
    model = copied(model)
    found: dict[str, list[torch.Tensor | None]] = {}
    names = {module: name for name, module in model.named_modules() if name in paths}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        one = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor)
        found.setdefault(names[module], []).append(
            torch.empty(args[0].shape, dtype=args[0].dtype) if one else None
        )

    for module in names:
        module.register_forward_pre_hook(note, with_kwargs=True)
    args, kwargs = inputs.copied()
    with torch.no_grad(), torch.random.fork_rng():
        model(*args, **kwargs)
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
    for module in map(model.get_submodule, paths):
        if isinstance(module, torch.jit.ScriptModule):
            ran.add(module)  # it takes no hooks
        else:
            module.register_forward_pre_hook(lambda module, _: ran.add(module))
    args, kwargs = inputs.copied()
    with torch.no_grad(), torch.random.fork_rng():
        model(*args, **kwargs)
    return [path for path in paths if model.get_submodule(path) in ran]


def seen_pairs(model: nn.Module, inputs: ExampleInputs) -> list[Pair]:
    """Modules that follow one another in the graph of the example, and have no other reader there.

    Raises:
        CaptureError: if it cannot be captured.
    """
    args, kwargs = inputs.copied()
    graph = capture(copied(model), args, kwargs).graph
    paths = [path for path, _ in model.named_modules() if path]
    scopes = {node: _scopes(node) for node in graph.nodes}
    inside: dict[str, set[fx.Node]] = {path: set() for path in paths}
    for node, around in scopes.items():
        for path in around & inside.keys():
            inside[path].add(node)
    given = {path: _given(nodes) for path, nodes in inside.items()}
    pairs = []
    for path in paths:
        nodes = inside[path]
        outer = [node for node in nodes if not nodes.issuperset(node.users)]
        if len(outer) != 1:
            continue
        readers = [user for user in outer[0].users if user not in nodes]
        behind = set.intersection(*(scopes[reader] for reader in readers)) & inside.keys()
        pairs += [Pair(path, other) for other in paths if other in behind and given[other] == outer]
    return pairs


def _given(inside: set[fx.Node]) -> list[fx.Node]:
    """What a module is given."""
    sources = {source for node in inside for source in node.all_input_nodes}
    return [source for source in sources - inside if source.op != "get_attr"]


def _scopes(node: fx.Node) -> set[str]:
    stack = node.meta.get("nn_module_stack") or {}
    return {str(path) for path, _ in stack.values()}
