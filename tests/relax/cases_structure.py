"""What a Relax module can be besides one dataflow block: blocks, branches, functions, casts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tvm
from relax.graphs import VERSION, Case, Expr, Make, pair
from tvm import relax

from bnfx import Code
from bnfx.passes.relax.compat import TensorType, data_of


def _layer(make: Make, x: Expr, inside: int = 4) -> Expr:
    return make.batch_norm(make.conv(x, 8, inside, 3, 3), 8)


def _outside(make: Make) -> tvm.IRModule:
    """Bindings that stand in no dataflow block."""
    with make.builder.function("main"):
        y = make.call("nn.relu", _layer(make, make.input(2, 4, 6, 7)))
        make.builder.emit_func_output(y, params=make.inputs)
    return make.builder.get()


def _across(make: Make) -> tvm.IRModule:
    """The convolution in one dataflow block, its bias outside, BatchNorm in another block."""
    with make.builder.function("main"):
        with make.builder.dataflow():
            y = make.builder.emit_output(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3))
        y = make.bias(y, 8)
        with make.builder.dataflow():
            y = make.batch_norm(y, 8)
            z = make.builder.emit_output(make.call("nn.relu", y))
        make.builder.emit_func_output(z, params=make.inputs)
    return make.builder.get()


def _tuple_across(make: Make) -> tvm.IRModule:
    """The BatchNorm's tuple leaves its block before it is taken apart."""
    with make.builder.function("main"):
        with make.builder.dataflow():
            y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
            whole = make.builder.emit_output(make.batch_norm_call(y, 8))
        with make.builder.dataflow():
            z = make.builder.emit_output(make.call("nn.relu", make.emit(whole[0])))
        make.builder.emit_func_output(z, params=make.inputs)
    return make.builder.get()


def _kept_tuple_across(make: Make) -> tvm.IRModule:
    """The same where it cannot be folded, next to one that can."""
    with make.builder.function("main"):
        with make.builder.dataflow():
            x = make.input(2, 4, 6, 7)
            whole = make.builder.emit_output(make.batch_norm_call(x, 4, training=True))
            y = make.builder.emit_output(_layer(make, x))
        with make.builder.dataflow():
            z = make.builder.emit_output(make.call("nn.relu", make.emit(whole[0])))
        make.builder.emit_func_output(pair(y, z), params=make.inputs)
    return make.builder.get()


def _two_outputs(make: Make) -> Expr:
    """Both the BatchNorm and what follows are outputs of the block."""
    y = make.builder.emit_output(_layer(make, make.input(2, 4, 6, 7)))
    return pair(y, make.call("nn.relu", y))


def _alias(make: Make) -> Expr:
    y = make.emit(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3))
    return make.emit(make.batch_norm(make.emit(y), 8))


def _two_functions(make: Make) -> tvm.IRModule:
    """``main`` calls another function, which has a BatchNorm too."""
    inner = Make(make.seed + 1, make.dtype)
    inner.builder = make.builder
    with make.builder.function("block"):
        with make.builder.dataflow():
            y = make.builder.emit_output(_layer(inner, inner.input(2, 4, 6, 7)))
        block = make.builder.emit_func_output(y, params=inner.inputs)
    with make.builder.function("main"):
        y = make.emit(relax.Call(block, [make.input(2, 4, 6, 7)]))
        y = make.call("nn.relu", _layer(make, y, 8))
        make.builder.emit_func_output(y, params=make.inputs)
    return make.builder.get()


def _cast(make: Make) -> tvm.IRModule:
    """A ``match_cast`` between a convolution and its BatchNorm."""
    with make.builder.function("main"):
        with make.builder.dataflow():
            y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
            y = make.builder.match_cast(y, TensorType((2, 8, 4, 5), make.dtype))
            y = make.builder.emit_output(make.batch_norm(y, 8))
        make.builder.emit_func_output(y, params=make.inputs)
    return make.builder.get()


def _unread(make: Make) -> Expr:
    """A BatchNorm that nobody reads."""
    x = make.input(2, 4, 6, 7)
    _layer(make, x)
    return _layer(make, x)


def _part_read_twice(make: Make) -> Expr:
    """Two bindings of the first part, each with a reader of its own."""
    y = make.batch_norm_call(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)
    return pair(make.call("nn.relu", make.emit(y[0])), make.call("sigmoid", make.emit(y[0])))


def _part_read_in_two_blocks(make: Make) -> tvm.IRModule:
    """The same in two blocks, of which the second cannot see what the first one binds."""
    with make.builder.function("main"):
        with make.builder.dataflow():
            y = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
            whole = make.builder.emit_output(make.batch_norm_call(y, 8))
            one = make.builder.emit_output(make.call("nn.relu", make.emit(whole[0])))
        one = make.call("negative", one)  # what stands in no block keeps the two apart
        with make.builder.dataflow():
            other = make.builder.emit_output(make.call("sigmoid", make.emit(whole[0])))
        make.builder.emit_func_output(pair(one, other), params=make.inputs)
    return make.builder.get()


def _dead_statistics(make: Make) -> Expr:
    """What TVM's ONNX importer writes: all parts are taken out of the tuple, two are not read."""
    whole = make.batch_norm_call(make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3), 8)
    y, *_ = (make.emit(whole[part]) for part in range(3))
    return make.call("nn.relu", y)


def _dead_readers(make: Make) -> Expr:
    """The convolution and the BatchNorm are read by code whose results nobody reads."""
    conv = make.conv(make.input(2, 4, 6, 7), 8, 4, 3, 3)
    y = make.batch_norm(conv, 8)
    make.call("sigmoid", make.call("nn.relu", conv))
    make.call("add", y, conv)
    return make.call("nn.relu", y)


def _deep_tuple(make: Make) -> Expr:
    y = _layer(make, make.input(2, 4, 6, 7))
    return pair(pair(y, make.call("nn.relu", y)), make.call("sigmoid", y))


def _shared_statistics(make: Make) -> Expr:
    """Two BatchNorms of one module: the same constants."""
    x = make.input(2, 4, 6, 7)
    constants = [make.constant(8, low=low) for low in (-1.5, -1.0, -1.0, 0.2)]
    options: dict[str, Any] = {"axis": 1, "training": False}
    one, other = (
        make.call("nn.batch_norm", make.conv(x, 8, 4, 3, 3), *constants, **options)
        for _ in range(2)
    )
    parts = [make.call("nn.relu", make.emit(whole[0])) for whole in (one, other)]
    return make.call("concat", parts, axis=1)


def _shared_weight(make: Make) -> Expr:
    """One weight, two convolutions, two BatchNorms: each gets a weight of its own."""
    x, z = make.input(2, 4, 6, 7), make.input(2, 4, 6, 7, name="z")
    weight = make.constant(8, 4, 3, 3)
    parts = [make.batch_norm(make.call("nn.conv2d", y, weight), 8) for y in (x, z)]
    return pair(*parts)


def _dynamic(make: Make) -> Expr:
    n = tvm.tirx.Var("n", "int64")
    y = _layer(make, make.input(n, 4, 6, 7))
    return make.call("reshape", make.call("nn.relu", y), (n, 160))


def _dynamic_reshape(make: Make) -> Expr:
    n = tvm.tirx.Var("n", "int64")
    y = make.call("reshape", make.conv(make.input(n, 4, 6, 7), 8, 4, 3, 3), (n, 8, 20))
    return make.batch_norm(y, 8)


def _dynamic_size(make: Make) -> Expr:
    h = tvm.tirx.Var("h", "int64")
    x = make.batch_norm(make.input(2, 4, h, 7), 4)
    return make.conv(x, 8, 4, 3, 3, padding=(1, 1))


def _dynamic_size_unpadded(make: Make) -> Expr:
    h = tvm.tirx.Var("h", "int64")
    return make.conv(make.batch_norm(make.input(2, 4, h, 7), 4), 8, 4, 3, 3)


def _dynamic_arms(make: Make) -> Expr:
    n = tvm.tirx.Var("n", "int64")
    x = make.input(n, 8, 6, 7)
    arms = (make.conv(x, 8, 8, 3, 3, padding=(1, 1)), make.conv(x, 8, 8, 1, 1))
    return make.batch_norm(make.call("add", *arms), 8)


_VECTOR = 'R.Tensor((8,), "float64")'
_HEAD = """
# from tvm.script import ir as I
# from tvm.script import relax as R

@I.ir_module
class Module:
    @R.function{options}
    def main(
        x: R.Tensor((2, 4, 6, 7), "float64"), which: R.Tensor((), "bool"), {parameters}
    ) -> R.Tensor(({result}), "float64"):
"""


def _script(make: Make, text: str, result: str, inside: Sequence[int]) -> tvm.IRModule:
    """A module written as a script, with a convolution and a BatchNorm for each letter.

    Args:
        inside: the input channels of the convolutions a, b, ...
    """
    parameters, constants = [], {}
    for name, channels in zip("abc", inside, strict=False):
        parameters.append(f'{name}: R.Tensor((8, {channels}, 3, 3), "float64")')
        constants[name] = make.constant(8, channels, 3, 3)
        for part, low in (("g", -1.5), ("b", -1.0), ("m", -1.0), ("v", 0.2)):
            parameters.append(f"{name}_{part}: {_VECTOR}")
            constants[f"{name}_{part}"] = make.constant(8, low=low)
        conv = 'R.nn.conv2d(\\1, NAME, out_dtype="float64")'.replace("NAME", name)
        norm = (
            f"R.nn.batch_norm(\\1, {name}_g, {name}_b, {name}_m, {name}_v, axis=1, training=False)"
        )
        text = re.sub(rf"conv_{name}\((.*?)\)", conv, text)
        text = re.sub(rf"norm_{name}\((.*?)\)", norm, text)
    head = _HEAD.format(options="", parameters=", ".join(parameters), result=result)
    module = tvm.script.from_source(head + text)
    arrays = {name: data_of(constant) for name, constant in constants.items()}
    bound = relax.transform.BindParams("main", arrays)(module)
    assert isinstance(bound, tvm.IRModule)
    return bound


def _branches(make: Make) -> tvm.IRModule:
    """A BatchNorm whose output two branches capture, one of which has a BatchNorm of its own."""
    text = """
        before = conv_a(x)
        whole = norm_a(before)
        read = whole[0]
        if which:
            one = conv_b(read)
            first = norm_b(one)
            result = first[0]
        else:
            two = conv_c(read)
            result = R.nn.relu(two)
        return result
"""
    return _script(make, text, "2, 8, 2, 3", (4, 8, 8))


def _closure(make: Make) -> tvm.IRModule:
    """A function inside that captures a BatchNorm's output, and has a BatchNorm."""
    text = """
        before = conv_a(x)
        whole = norm_a(before)
        read = whole[0]
        @R.function
        def inner(y: R.Tensor((2, 8, 4, 5), "float64")) -> R.Tensor((2, 8, 2, 3), "float64"):
            one = conv_b(y)
            part = norm_b(one)
            first = part[0]
            two = conv_c(read)
            both = R.multiply(first, two)
            return both
        z = R.nn.relu(read)
        result = inner(z)
        return result
"""
    return _script(make, text, "2, 8, 2, 3", (4, 8, 8))


_LOWERED: dict[str, Any] = {"folded": 0, "lowered": 1}

CASES = [
    Case("outside-of-blocks", _outside, whole=True),
    Case("across-blocks", _across, whole=True),
    Case("tuple-across-blocks", _tuple_across, whole=True),
    Case(
        "kept-tuple-across-blocks",
        _kept_tuple_across,
        whole=True,
        kept=1,
        codes=(Code.TRAINING_MODE,),
    ),
    Case("two-outputs", _two_outputs),
    Case("alias", _alias),
    Case("two-functions", _two_functions, whole=True, folded=2, left=2),
    Case("branches", _branches, whole=True, folded=2, left=2),
    Case("closure", _closure, whole=True, folded=2, left=3),
    Case("match-cast", _cast, whole=True),
    Case("unread", _unread, folded=2, left=1),
    Case("part-read-twice", _part_read_twice),
    Case(
        "part-read-in-two-blocks",
        _part_read_in_two_blocks,
        whole=True,
        folded=0,
        kept=1,
        codes=(Code.UNSUPPORTED_FORM,),
    ),
    Case("dead-statistics", _dead_statistics),
    Case("dead-readers", _dead_readers),
    Case("deep-tuple", _deep_tuple),
    Case("shared-statistics", _shared_statistics, folded=2, left=2),
    Case("shared-weight", _shared_weight, folded=2, left=2),
    Case("dynamic-batch", _dynamic),
    Case("dynamic-reshape", _dynamic_reshape),
    Case("dynamic-arms", _dynamic_arms),
    Case(
        "dynamic-size",
        _dynamic_size,
        **_LOWERED,
        left=2,
        codes=(Code.DYNAMIC_SHAPE, Code.NO_LINEAR_BEFORE),
    ),
    # TVM 0.26 builds no addition behind such a convolution, whoever wrote it.
    Case("dynamic-size-unpadded", _dynamic_size_unpadded, runs=VERSION != (0, 26)),
]
