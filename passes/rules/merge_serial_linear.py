"""L2(L1 x) -> L x: one linear operator for two in a row, where it costs less.

Equation: ``W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)``. Of two convolutions one must have a
kernel of one tap. Where the second one pads with zeros, ``W2 b1`` is a map of the output's size
(see ``fold-affine-into-next-linear``).

Shapes: ``(m, k)`` after ``(k, n)`` over the channels between. Whether the product costs less than
its factors depends on them: a bottleneck is cheaper in two steps. Exact in real arithmetic.

Source: Ding et al., "Diverse Branch Block" (2021), transform III.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bnfx.passes.algebra import BroadcastAffine, Composition
from bnfx.passes.graph import Affine, Graph, Linear, Node
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import Outcome
from bnfx.passes.rules import cost
from bnfx.passes.rules.guards import behind_identities, refuse_multiply_add
from bnfx.passes.rules.rule import Change, Rule
from bnfx.passes.values import Values


def match(node: Node) -> bool:
    return isinstance(node.role, Linear) and isinstance(_inner(node).role, Linear)


def _inner(node: Node) -> Node:
    return behind_identities(node.inputs[0], node)


def refuse(node: Node, values: Values | None) -> Iterator[Refusal]:
    inner = _inner(node)
    assert isinstance(node.role, Linear) and isinstance(inner.role, Linear)
    if len(inner.data_users()) != 1:
        yield Refusal(Code.OTHER_READERS, f"{inner.name} is read by others too")
    if inner.pinned or inner.inputs[0].pinned:
        yield Refusal(Code.MUTATED_IN_GRAPH, f"the graph may write to what {inner.name} reads")
    if node.role.hides_padding or inner.role.hides_padding:
        yield Refusal(Code.UNSUPPORTED_FORM, "one of them pads its input by other than zeros")
    dtypes = {inner.dtype, node.dtype, inner.role.dtype, node.role.dtype} - {None}
    if len(dtypes) > 1:
        yield Refusal(Code.DTYPE_CHANGE, f"they compute in {sorted(map(str, dtypes))}")
    try:
        product = _product(node)
    except ValueError as error:
        yield Refusal(Code.UNSUPPORTED_FORM, str(error))
        return
    source = inner.inputs[0]
    before = cost.linear(inner.role.operator, source, inner)
    before += cost.linear(node.role.operator, inner, node)
    after = cost.linear(product.operator, source, node)
    try:
        border = _border(node, product)
    except ValueError as error:
        yield Refusal(Code.UNSUPPORTED_FORM, str(error))
        return
    if border is not None:
        after += cost.epilogue(node, border)
        yield from refuse_multiply_add(node, border, values)
    if after >= before:
        yield Refusal(Code.COSTS_MORE, f"their product costs {after / before:.1f} times as much")
    elif values is not None:
        yield from values.refuse_operator(product.operator, (node.role.dtype,))


def _product(node: Node) -> Composition:
    inner = _inner(node)
    assert isinstance(node.role, Linear) and isinstance(inner.role, Linear)
    return node.role.operator @ inner.role.operator


def _border(node: Node, product: Composition) -> BroadcastAffine | None:
    """What must be added to the product, on the output.

    Raises:
        ValueError: if that depends on a size that is not known.
    """
    if not product.has_border:
        return None
    shape = _inner(node).shape
    spatial = [shape[axis] for axis in product.outer.spatial_axes] if shape else []
    sizes = tuple(size for size in spatial if isinstance(size, int))
    if not shape or len(sizes) < len(spatial):
        raise ValueError("the size of what stands between them is not known")
    border = product.border(sizes)
    assert border is not None and node.rank is not None, "a border is known only where shapes are"
    return BroadcastAffine.of_border(product.operator.placed(border), node.rank)


def rewrite(graph: Graph, node: Node, values: Values | None) -> Change:
    inner = _inner(node)
    product = _product(node)
    border = _border(node, product)
    assert isinstance(node.role, Linear)
    node.role = replace(node.role, operator=product.operator)
    last = node.inputs[0]
    graph.rewire(node, inner.inputs)
    graph.drop_unread(last)
    if border is not None:
        first = graph.put_before(node, node.name)
        first.origin = node.origin
        node.role = Affine(border, lowered=True)
    return Change(Outcome.FOLDED, node, node.name, absorbed=(inner,))


RULE = Rule("merge-serial-linear", match, refuse, rewrite)
