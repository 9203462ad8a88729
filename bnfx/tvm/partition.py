"""Takes an exported program apart: what TVM's importer knows, and what PyTorch is to run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module

from bnfx.passes.fx.lowering.bind import attribute, bind


class Unsupported(Exception):  # noqa: N818 - it is caught where it is raised from
    """The program has ops that TVM's importer does not know.

    Args:
        names: of these ops.
        program: the program.
    """

    def __init__(self, names: list[str], program: torch.export.ExportedProgram) -> None:
        super().__init__(f"TVM's importer does not know {', '.join(names)}")
        self.names = names
        self.program = program


def unknown(program: torch.export.ExportedProgram, known: Collection[str]) -> list[str]:
    """The names of the ops of ``program`` that are not ``known``, in order."""
    names = (_name(node) for node in program.graph.nodes if node.op == "call_function")
    return list(dict.fromkeys(name for name in names if name not in known))


def partitioned(
    program: torch.export.ExportedProgram, compile_part: Callable[[fx.GraphModule], nn.Module]
) -> Callable[..., Any]:
    """The program with each stretch of known ops given to ``compile_part``.

    Args:
        program: that has ops which are not known.
        compile_part: what runs a graph in its stead; constants are its attributes.
    """
    from bnfx.tvm.importer import known_ops

    known = known_ops()
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    module.graph.set_codegen(fx.graph.CodeGen())  # plain arguments, a plain tuple of results
    parts: dict[fx.Node, int] = {}
    count, supported = 0, None
    for node in module.graph.nodes:
        now = node.op != "call_function" or _name(node) in known
        if node.op == "call_function" and now is not supported:
            count, supported = count + 1, now
        parts[node] = count
    split = split_module(module, module, parts.__getitem__)
    for node in list(split.graph.nodes):
        if node.op != "call_module":
            continue
        part = split.get_submodule(str(node.target))
        assert isinstance(part, fx.GraphModule)
        if all(_name(n) in known for n in part.graph.nodes if n.op == "call_function"):
            _give_constants(split, node, part, compile_part)
    split.recompile()
    return split


def _give_constants(
    split: fx.GraphModule,
    node: fx.Node,
    part: fx.GraphModule,
    compile_part: Callable[[fx.GraphModule], nn.Module],
) -> None:
    """Make attributes that are handed to a part its own, and compile it."""
    places = [n for n in part.graph.nodes if n.op == "placeholder"]
    constants: dict[str, torch.Tensor] = {}
    others = []
    for place, argument in zip(places, node.args, strict=True):
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            value = attribute(split, str(argument.target))
            if isinstance(value, torch.Tensor):
                constants[place.name] = value
                continue
        others.append(argument)
    setattr(split, str(node.target), compile_part(bind(part, constants)))
    node.args = tuple(others)


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
