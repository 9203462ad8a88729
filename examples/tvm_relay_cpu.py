"""Fold a Relay network and build it for the CPU: the report, the answers and the times.

Needs a TVM with Relay (before 0.20), for example in Python 3.10:

    pip install 'bnfx[relay]'
    TOPHUB_LOCATION=NONE python examples/tvm_relay_cpu.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tvm
from tvm import relay
from tvm.contrib import graph_executor
from tvm.relay import testing

import bnfx.tvm

TARGET = "llvm -mtriple=x86_64-linux-gnu -mcpu=core-avx2"


def network() -> tuple[tvm.IRModule, dict[str, Any]]:
    """DCGAN's generator: transposed convolutions and BatchNorms, which TVM leaves apart."""
    module, params = testing.dcgan.get_workload(batch_size=1)
    random = np.random.default_rng(0)
    for name, old in params.items():  # TVM's own are identities
        if name.endswith(("gamma", "beta", "mean", "var")):
            value = random.uniform(0.5, 1.5, old.shape).astype(old.dtype)
            params[name] = tvm.nd.array(value)
    return module, params


def run(library: Any, x: Any) -> Any:
    executor = graph_executor.GraphModule(library["default"](tvm.cpu()))
    executor.set_input("data", x)
    executor.run()
    return executor.get_output(0).numpy()


module, params = network()
x = np.random.default_rng(1).normal(size=(1, 100)).astype("float32")

with tvm.transform.PassContext(opt_level=3):
    start = time.perf_counter()
    plain = relay.build(module, TARGET, params=params)
    middle = time.perf_counter()
    folded = bnfx.tvm.build(module, TARGET, params, report=print)
    end = time.perf_counter()

difference = np.abs(run(plain, x) - run(folded, x)).max()
print(f"largest difference: {difference:.1e}")
print(f"build time: TVM {middle - start:.1f} s, bnfx {end - middle:.1f} s")
assert difference < 1e-5
