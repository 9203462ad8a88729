"""Relax modules of random networks, and an interpreter of theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import tvm
from tvm import relax

from bnfx.passes.relax.compat import Constant, TensorType, constant, data_of, type_of
from bnfx.passes.relax.expressions import op_name
from tvm_random.arrays import OPS, pad
from tvm_random.equivalents import Rewritten
from tvm_random.program import Expr, Network, Tensor, Writer, start

SHIFT = "bnfx.test.random_shift"  # it writes to what it is given, and gives it back
VIEWS = ("reshape", "memory.ensure_zero_offset", "memory.view")


class RelaxWriter(Writer):
    """Args: seed: of the network."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.builder = relax.BlockBuilder()
        self.impure = bool(self.random.integers(2))
        self.depth = 0

    def constant(self, array: Any) -> Expr:
        return constant(np.asarray(array))

    def op(self, name: str, *args: Any, **options: Any) -> Expr:
        if name.startswith("nn.conv"):
            options["out_dtype"] = "float64"
        function = reduce(getattr, name.split("."), relax.op)
        return self.builder.emit(function(*args, **options))  # type: ignore[operator]

    def shape(self, expr: Expr) -> tuple[int, ...]:
        return tuple(int(size) for size in type_of(expr).shape.values)

    def concat(self, parts: list[Expr], axis: int) -> Expr:
        return self.op("concat", parts, axis)

    def split(self, x: Expr, sections: int, axis: int) -> list[Expr]:
        whole = self.op("split", x, sections, axis)
        return [self.builder.emit(whole[part]) for part in range(sections)]

    def slice(self, x: Expr, axis: int, start: int, stop: int) -> Expr:
        return self.op("strided_slice", x, [axis], [start], [stop])

    def pad(self, x: Expr, sides: list[tuple[int, int]], mode: str, fill: float) -> Expr:
        mode = {"edge": "replicate"}.get(mode, mode)
        return self.op("nn.pad", x, [side for pair in sides for side in pair], mode, fill)

    def batch_norm(self, x: Expr, statistics: list[Expr], **options: Any) -> Expr:
        whole = self.op("nn.batch_norm", x, *statistics, training=False, **options)
        first = self.builder.emit(whole[0])
        if self.random.random() < 0.3:  # as TVM's ONNX importer does
            self.builder.emit(whole[1])
            self.builder.emit(whole[2])
        return self.builder.emit(whole[0]) if self.random.random() < 0.1 else first

    def extra(self, network: Network, x: Tensor) -> Tensor:
        kinds = ["dead", "call", "alias"]
        if self.impure:
            kinds += ["write", "write", "if", "function"]
        match network.draw(*kinds):
            case "dead":
                network.norm(network.unary(x))
            case "alias":
                return Tensor(self.builder.emit(x.expr), x.shape, x.last)
            case "call":
                name = "reshape" if not self.impure else network.draw(*VIEWS[:2])
                args = (x.expr, x.shape) if name == "reshape" else (x.expr,)
                return Tensor(self.op(name, *args), x.shape, x.last)
            case "write":
                self._write(network, x)
            case "function" if self.depth == 0:
                return self._function(network, x)
            case "if" if self.depth == 0:
                return self._if(network, x)
        return x

    def _write(self, network: Network, x: Tensor) -> None:
        """Write to a tensor that was computed, or to a view of it."""
        y = x.expr
        if network.draw(True, False):
            y = self.op("memory.view", y, (int(np.prod(x.shape)),), "float64")
        elif network.draw(True, False):
            y = self.op("memory.ensure_zero_offset", y)
        kind = getattr(relax, "ObjectStructInfo", None) or relax.ObjectType
        self.builder.emit(relax.Call(relax.ExternFunc(SHIFT), [y], None, [kind()]))

    def _function(self, network: Network, x: Tensor) -> Tensor:
        """A function of the module that returns its argument, or a layer."""
        inner = RelaxWriter(int(self.random.integers(1 << 30)))
        inner.depth, inner.impure = 1, False
        z = relax.Var("z", TensorType(x.shape, "float64"))
        inner_network = Network(inner, 0)
        with inner.builder.function("main", [z]):
            y = Tensor(z, x.shape, x.last)
            y = inner_network.norm(inner_network.conv(y)) if network.draw(True, False) else y
            inner.builder.emit_func_output(y.expr)
        function = inner.builder.get()["main"]
        network.norms += inner_network.norms
        name = f"layer_{int(self.random.integers(1 << 30))}"
        variable = self.builder.add_func(function.without_attr("global_symbol"), name)
        return Tensor(self.builder.emit(relax.Call(variable, [x.expr])), y.shape, x.last)

    def _if(self, network: Network, x: Tensor) -> Tensor:
        """Branches with layers of their own, which capture what is around them."""
        branches = []
        for _ in range(2):
            inner = RelaxWriter(int(self.random.integers(1 << 30)))
            inner.depth, inner.impure = 1, self.impure
            z = relax.Var("z", TensorType(x.shape, "float64"))
            inner_network = Network(inner, 0)
            with inner.builder.function("main", [z], pure=not self.impure):
                y = inner_network.norm(inner_network.arithmetic(Tensor(z, x.shape, x.last)))
                if self.impure and network.draw(True, False):
                    inner._write(inner_network, Tensor(z, x.shape, x.last))
                inner.builder.emit_func_output(y.expr)
            network.norms += inner_network.norms
            branches.append(relax.utils.copy_with_new_vars(inner.builder.get()["main"]))
            branches[-1] = _bound(branches[-1], x.expr)
        which = self.constant(np.asarray(bool(self.random.integers(2))))
        return Tensor(self.builder.emit(relax.If(which, *branches)), x.shape, x.last)


def _bound(function: Expr, argument: Expr) -> Expr:
    """The body of a function of one parameter, which is bound to ``argument`` first."""
    (parameter,) = function.params
    first = relax.BindingBlock([relax.VarBinding(parameter, argument)])
    return relax.SeqExpr([first, *function.body.blocks], function.body.body)


class Equivalent(Rewritten, RelaxWriter):
    """The same network, each layer written in a way drawn from ``other``, or as ``chosen``."""

    def array(self, constant: Expr) -> Any:
        return data_of(constant)

    def unread(self) -> None:
        self.random.random(2)


def random_module(
    seed: int, writer: RelaxWriter | None = None
) -> tuple[tvm.IRModule, tuple[int, ...], int]:
    """A module, the shape of its input, and how many BatchNorms it has."""
    writer = writer or RelaxWriter(seed)
    shape, last = start(writer.random)
    network = Network(writer, int(writer.random.integers(3, 11)))
    x = relax.Var("x", TensorType(shape, "float64"))
    with writer.builder.function("main", [x], pure=not writer.impure):
        begin = Tensor(writer.op("nn.relu", x), shape, last)  # of its own, which may be written to
        if writer.impure:
            result = network.build(begin)
            writer.builder.emit_func_output(result.expr)
        else:
            with writer.builder.dataflow():
                out = writer.builder.emit_output(network.build(begin).expr)
            writer.builder.emit_func_output(out)
    module = writer.builder.get()
    relax.analysis.well_formed(module)
    return module, shape, network.norms


def written(writer: RelaxWriter, shape: tuple[int, ...], body: Callable[[Expr], Expr]) -> Any:
    """A module whose main gives ``body`` of its input."""
    x = relax.Var("x", TensorType(shape, "float64"))
    with writer.builder.function("main", [x]):
        with writer.builder.dataflow():
            out = writer.builder.emit_output(body(x))
        writer.builder.emit_func_output(out)
    return writer.builder.get()


def run(module: tvm.IRModule, *inputs: Any) -> Any:
    """What ``main`` computes; memory is shared as TVM shares it."""
    return _call(module, module["main"], inputs, {})


def _call(module: tvm.IRModule, function: Expr, inputs: Any, around: dict[Expr, Any]) -> Any:
    bound = {**around, **dict(zip(function.params, inputs, strict=True))}
    return _sequence(module, function.body, bound)


def _sequence(module: tvm.IRModule, body: Expr, bound: dict[Expr, Any]) -> Any:
    bound = dict(bound)
    for block in body.blocks:
        for binding in block.bindings:
            bound[binding.var] = _value(module, binding.value, bound)
    return _value(module, body.body, bound)


def _value(module: tvm.IRModule, expr: Expr, bound: dict[Expr, Any]) -> Any:
    if isinstance(expr, relax.Var):
        return bound[expr]
    if isinstance(expr, Constant):
        return data_of(expr).copy()
    if isinstance(expr, relax.Tuple):
        return tuple(_value(module, field, bound) for field in expr.fields)
    if isinstance(expr, relax.TupleGetItem):
        return _value(module, expr.tuple_value, bound)[expr.index]
    if isinstance(expr, relax.If):
        taken = expr.true_branch if _value(module, expr.cond, bound) else expr.false_branch
        return _sequence(module, taken, bound)
    assert isinstance(expr, relax.Call), type(expr)
    if isinstance(expr.op, relax.GlobalVar):
        inputs = [_value(module, arg, bound) for arg in expr.args]
        return _call(module, module[expr.op], inputs, {})
    if isinstance(expr.op, relax.ExternFunc):
        written = _value(module, expr.args[0], bound)
        written += 5.0
        return written
    return _op(module, expr, bound)


def _op(module: tvm.IRModule, call: Expr, bound: dict[Expr, Any]) -> Any:
    name, attrs = op_name(call), call.attrs
    if not call.args:  # what a function without a result gives
        return None
    data = _value(module, call.args[0], bound)
    if name in VIEWS or name == "expand_dims":
        return data.reshape([int(size) for size in type_of(call).shape.values])
    if name == "concat":
        return np.concatenate(data, int(attrs.axis))
    if name == "split":
        return tuple(np.split(data, int(attrs.indices_or_sections), int(attrs.axis)))
    if name == "strided_slice":
        axes, begins, ends = ([int(v) for v in arg.fields] for arg in call.args[1:4])
        part = [slice(None)] * data.ndim
        for axis, begin, end in zip(axes, begins, ends, strict=True):
            part[axis] = slice(begin, end)
        return data[tuple(part)].copy()
    if name == "nn.pad":
        widths = [int(width) for width in attrs.pad_width]
        sides = list(zip(widths[::2], widths[1::2], strict=True))
        return pad(data, sides, str(attrs.pad_mode), float(attrs.pad_value))
    rest = [_value(module, arg, bound) for arg in call.args[1:]]
    return OPS[name or ""](attrs, data, *rest)
