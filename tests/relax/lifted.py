"""Small graphs that are read, and not built: what becomes of each value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from relax.graphs import Expr, Make, pair
from tvm import relax

from bnfx.passes.graph import Node, Opaque, Role
from bnfx.passes.relax.compat import TensorType, type_of
from bnfx.passes.relax.expressions import Bindings
from bnfx.passes.relax.tables import RELAX
from bnfx.passes.tvm.lift import LiftedFlow, lift

Build = Callable[[Make], Expr]
Read = Callable[[Make, Expr], Expr]

TYPE = TensorType((2, 8, 6, 6), "float64")
LOOSE = TensorType(dtype="float64", ndim=4)
_Tuple = getattr(relax, "TupleStructInfo", None) or relax.TupleType
LOOSE_PAIR = _Tuple([LOOSE, LOOSE])
TYPES = "sinfo_args" if hasattr(relax, "StructInfo") else "ty_args"


def lifted(build: Build, dtype: str = "float64") -> LiftedFlow:
    function = Make(0, dtype).module(build)["main"]
    return lift(Bindings(function.body, function.params), RELAX)


def role_of(build: Build) -> Role:
    """The role of the call that gives the result; the result is another name for it."""
    flow = lifted(build)
    return flow.nodes[flow.flow.result.args[0]].role


def shown(flow: LiftedFlow) -> str:
    """Each node that is neither a parameter nor a constant: its role, and what it reads; ``!``
    where it is written to, ``~`` where it reads sizes alone, ``@`` where it has a site.
    """
    constants = {flow.nodes[value] for value in flow.flow.values if value in flow.constants}
    read = set(flow.nodes.values())
    nodes = [node for node in flow.graph if node not in constants]
    nodes = [node for node in nodes if node.inputs or node.pinned or node not in read]
    return "; ".join(map(_shown, nodes))


def _shown(node: Node) -> str:
    kind = type(getattr(node.role, "movement", node.role)).__name__
    sizes = "~" if isinstance(node.role, Opaque) and not node.role.reads_data else ""
    biased = getattr(getattr(node.role, "operator", None), "bias", None) is not None
    inputs = ", ".join(source.name for source in node.inputs)
    mark = f"{'!' if node.pinned else ''}{'@' * len(node.sites)}"
    return f"{node.name}{mark}={kind}{'+b' if biased else ''}{sizes}({inputs})"


def named(make: Make, expr: Expr, kind: Any = LOOSE) -> Expr:
    """A value whose type says less than TVM knows."""
    variable = relax.DataflowVar("said", kind)
    make.builder.emit_normalized(relax.VarBinding(variable, make.builder.normalize(expr)))
    return variable


def typed(expr: Expr, kind: Any = TYPE) -> Expr:
    """As a pass leaves it that builds expressions by hand, and says their types."""
    update = getattr(relax.expr, "_update_type", None) or relax.expr._update_struct_info
    update(expr, kind)
    return expr


def write(make: Make, x: Expr) -> Expr:
    """In place, by a function of the user's."""
    types: Any = {TYPES: [type_of(x)]}
    return make.emit(relax.op.call_inplace_packed("own", x, inplace_indices=[0], **types))


def conv(make: Make) -> Expr:
    x = make.inputs[0] if make.inputs else make.input(2, 8, 6, 6)
    return make.conv(x, 8, 8, 1, 1)


def bias(make: Make, *expr: Expr) -> Expr:
    y = expr[0] if expr else conv(make)
    return make.call("add", y, make.constant(8, 1, 1))


def two(make: Make) -> Expr:
    """A tuple that is bound."""
    y = conv(make)
    return make.emit(relax.Tuple([y, make.call("nn.relu", y)]))


def read_by(make: Make, value: Build, *reads: Read) -> Expr:
    """What several readers make of one value."""
    y = value(make)
    results = [read(make, y) for read in reads]
    return results[0] if len(results) == 1 else pair(*results)


def norm(make: Make, **options: Any) -> Expr:
    return make.emit(make.batch_norm_call(conv(make), 8, **options))


def split(sections: Any, axis: int = 1) -> Build:
    return lambda make: make.call("split", conv(make), sections, axis)


def part(index: int) -> Read:
    return lambda make, whole: make.emit(whole[index])


def itself(make: Make, value: Expr) -> Expr:
    return value


def joined(make: Make, parts: Expr, axis: int = 1) -> Expr:
    return make.call("concat", parts, axis=axis)


def renamed(make: Make, value: Expr) -> Expr:
    return make.emit(value)


def open_split(make: Make, axis: int, sections: Any) -> Expr:
    """A part of a batch of unknown size."""
    x = make.input(tvm.tirx.Var("n", "int64"), 8, 6, 6)
    return make.emit(make.call("split", x, sections, axis)[1])


def unknown(make: Make, kind: Any = LOOSE) -> Expr:
    make.inputs.append(relax.Var("x", kind))
    return make.inputs[-1]


def unneeded(make: Make) -> Expr:
    y = conv(make)
    bias(make, make.call("sigmoid", y))
    bias(make, y)
    bias(make)
    return make.call("nn.relu", y)


def written_constant(make: Make) -> Expr:
    c = make.call("multiply", make.constant(2, 8, 6, 6), make.constant(2, 8, 6, 6))
    written = write(make, c)
    return pair(make.call("add", conv(make), c), written)


def moved(make: Make, op: str, *rest: Expr) -> Expr:
    return make.call(op, conv(make), *rest)


def cast(make: Make, value: Expr, kind: Any = TYPE) -> Expr:
    return make.builder.match_cast(value, kind)
