"""Builds for CUDA where there is no CUDA: prints the device kernels, unfolded and folded, as JSON.

TVM lowers a module fully, then asks ``target.build.cuda`` for code. This stands in for it, so it
runs in a process of its own; the device functions are what a GPU would get.
"""

from __future__ import annotations

import json
from typing import Any

import tvm
from cases_merge import _repvgg
from graphs import Make, module_of
from tvm import relay

import bnfx.tvm

TARGET = tvm.target.Target("cuda -arch=sm_80", host="llvm -mtriple=x86_64-linux-gnu")
lowered: list[str] = []


@tvm.register_func("target.build.cuda")
def _capture(module: tvm.IRModule, target: Any) -> Any:
    lowered.extend(variable.name_hint for variable in module.get_global_vars())
    as_text = tvm.get_global_func("target.build.opencl")
    return as_text(module, tvm.target.Target("opencl"))


def _network(make: Make) -> Any:
    """A RepVGG block, then a transposed convolution: three kernels could be one, two ops gone."""
    y = _repvgg(make)
    y = make.transposed(y, 8, 8, 2, 2, strides=(2, 2))
    return relay.nn.relu(make.batch_norm(y, 8))


def _kernels(rules: str) -> list[str]:
    lowered.clear()
    with tvm.transform.PassContext(opt_level=3):
        library = bnfx.tvm.build(module_of(_network(Make(0, "float32"))), TARGET, rules=rules)
    assert library.get_lib().imported_modules[0].get_source("cl"), "there is device code"
    return sorted(lowered)


print(json.dumps({rules: _kernels(rules) for rules in ("none", "all")}))
