"""Relax's FoldBatchnormToConv2D."""

from __future__ import annotations

import numpy as np
import torch
import tvm
from common import case
from tvm import relax

import bnfx.tvm
from bnfx.passes.relax.compat import TensorType

random = np.random.default_rng(0)


def module(**norm):
    """A convolution and a BatchNorm of 4 channels on a picture of 4 x 4, weights bound."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", TensorType((1, 4, 4, 4), "float32"))
    weight = relax.const(random.normal(size=(4, 4, 3, 3)).astype("float32"))
    vectors = [relax.const(random.uniform(0.5, 2, 4).astype("float32")) for _ in range(4)]
    with builder.function("main", [x]):
        with builder.dataflow():
            conv = builder.emit(relax.op.nn.conv2d(x, weight, padding=(1, 1)))
            norm = builder.emit(relax.op.nn.batch_norm(conv, *vectors, training=False, **norm))
            out = builder.emit_output(relax.TupleGetItem(norm, 0))
        builder.emit_func_output(out)
    return builder.finalize()


def answer(mod, x):
    executable = tvm.compile(relax.transform.LegalizeOps()(mod), "llvm")
    vm = relax.VirtualMachine(executable, tvm.cpu())
    return torch.from_numpy(vm["main"](tvm.runtime.tensor(x)).numpy())


x = random.normal(size=(1, 4, 4, 4)).astype("float32")
for what, norm in (
    ("BatchNorm over axis 2", {"axis": 2}),
    ("scale=False", {"axis": 1, "scale": False}),
    ("center=False", {"axis": 1, "center": False}),
):
    mod = module(**norm)
    case(
        "Relax FoldBatchnormToConv2D",
        "apache-tvm",
        what,
        answer(mod, x),
        lambda m=mod: answer(relax.transform.FoldBatchnormToConv2D()(m), x),
        lambda m=mod: answer(bnfx.tvm.relax.FoldBatchNorm()(m), x),
    )
