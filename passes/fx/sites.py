"""What a report speaks of: the BatchNorms and affine ops of a graph, nested ones included."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from bnfx.passes.fx.calls.modules import is_batch_norm
from bnfx.passes.fx.lowering.marks import Mark, mark_of
from bnfx.passes.fx.metadata import location_of
from bnfx.passes.fx.op_names import op_names
from bnfx.passes.report import Site


def nested_sites(fx_node: fx.Node, module: fx.GraphModule) -> Iterator[Site]:
    """The BatchNorms in the graphs that a node runs: branches, loop bodies, nested GraphModules."""
    paths = [
        str(argument.target) for argument in fx_node.all_input_nodes if argument.op == "get_attr"
    ]
    if fx_node.op == "call_module":
        paths.append(str(fx_node.target))
    for path in paths:
        try:
            nested = module.get_submodule(path)
        except AttributeError:
            continue  # a tensor
        for name, inner in nested.named_modules(prefix=path):
            if isinstance(inner, fx.GraphModule):
                for node, name in op_names(inner.graph).items():
                    if names_batch_norm(node, inner):
                        yield batch_norm_site(node, name)
            elif is_batch_norm(inner) and not isinstance(nested, fx.GraphModule):
                yield Site(name, "batch_norm", location_of(fx_node))  # a leaf of a user's tracer


def names_batch_norm(fx_node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether a node is a BatchNorm, readable or not."""
    if fx_node.op == "call_module":
        return is_batch_norm(module.get_submodule(str(fx_node.target)))
    return fx_node.op == "call_function" and "batch_norm" in str(
        getattr(fx_node.target, "__name__", fx_node.target)
    )


def batch_norm_site(fx_node: fx.Node, name: str) -> Site:
    """What a report calls a BatchNorm."""
    return Site(name, "batch_norm", location_of(fx_node))


def affine_sites(fx_node: fx.Node, name: str) -> tuple[Site, ...]:
    """What a report calls an affine op; none for the later ops of what a fold wrote."""
    mark = mark_of(fx_node)
    if mark is Mark.REST:
        return ()
    return (Site(name, "affine" if mark is None else mark.value, location_of(fx_node)),)
