"""What a page shows of a Relay function: its ops before and after."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relay

from bnfx.passes.relay.rewrite import rewrite_module


def constant(*shape: int) -> relay.Expr:
    return relay.const(np.random.default_rng(0).uniform(0.5, 2, shape).astype("float32"))


def test_ops_before_and_after_are_linked() -> None:
    x = relay.var("x", shape=(1, 3, 6, 6), dtype="float32")
    y = relay.nn.conv2d(x, constant(4, 3, 3, 3), channels=4, kernel_size=(3, 3))
    y = relay.nn.batch_norm(y, *(constant(4) for _ in range(4)), epsilon=1e-2)[0]
    y = relay.concatenate([relay.sin(y), y], axis=1)
    module = tvm.IRModule.from_expr(relay.Function([x], y))
    (report,) = rewrite_module(module, detailed=True).reports
    details = report.details
    assert details is not None
    kinds = [op.kind for op in details.before]
    assert kinds == ["input", "conv2d", "batch_norm", "sin", "concatenate", "output"]
    assert [op.kind for op in details.after] == ["input", "conv2d", "sin", "concatenate", "output"]
    assert details.after[1].identity == details.before[1].identity
    assert details.after[1].sites == (0,)
    assert len(details.after[1].largest) == 4
    assert details.norms[0].eps == 1e-2
    assert len(details.norms[0].scale) == 4
