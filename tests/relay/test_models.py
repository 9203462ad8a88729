"""TVM's own test networks, with BatchNorms that are no identities: equal logits, none left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from graphs import TARGET, affine_ops, count, optimised, relative, run
from tvm import relay
from tvm.relay import testing

import bnfx
import bnfx.tvm
from bnfx.tvm.relay import FoldBatchNorm

heavy = pytest.mark.heavy
SMALL = (3, 64, 64)
NETWORKS: dict[str, Any] = {
    "resnet18": lambda: testing.resnet.get_workload(num_layers=18, image_shape=SMALL),
    "resnet50": lambda: testing.resnet.get_workload(num_layers=50, image_shape=SMALL),
    "mobilenet": lambda: testing.mobilenet.get_workload(image_shape=SMALL),
    "densenet121": lambda: testing.densenet.get_workload(121),
    "inception_v3": lambda: testing.inception_v3.get_workload(),
    "dcgan": lambda: testing.dcgan.get_workload(1),
    "squeezenet": lambda: testing.squeezenet.get_workload(image_shape=SMALL),
    "resnet3d": lambda: testing.resnet_3d.get_workload(
        num_layers=18, num_classes=10, image_shape=(3, 8, 32, 32)
    ),
}
LIGHT = ("resnet18", "dcgan")


def logits(module: tvm.IRModule) -> tvm.IRModule:
    """The network without its softmax, which hides differences."""
    function = module["main"]
    body = function.body
    if body.op.name == "nn.softmax":
        body = body.args[0]
    module = tvm.IRModule.from_expr(relay.Function(function.params, body))
    return relay.transform.InferType()(module)


def signed(params: dict[str, Any]) -> dict[str, Any]:
    """Random parameters, BatchNorm's signed and far from an identity."""
    random = np.random.default_rng(0)
    found = {}
    for name, old in params.items():
        shape, kind = old.shape, name.rpartition("_")[2]
        if name.endswith(("_var", "moving_var")):
            value = random.uniform(0.5, 2.0, shape)
        elif kind in ("gamma", "beta", "mean", "bias"):
            value = random.uniform(0.5, 1.5, shape) * random.choice([-1.0, 1.0], shape)
            value = value * (1.0 if kind == "gamma" else 0.3)
        else:  # keeps the size of what passes through
            fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
            value = random.normal(size=shape) * np.sqrt(2.0 / fan_in)
        found[name] = tvm.nd.array(value.astype(old.dtype))
    assert found.keys() == params.keys()
    return found


@pytest.mark.slow  # test_onnx.py has a ResNet
@pytest.mark.parametrize(
    "name", [name if name in LIGHT else pytest.param(name, marks=heavy) for name in NETWORKS]
)
def test_network(name: str) -> None:
    module, params = NETWORKS[name]()
    module, params = logits(module), signed(params)
    norms = count(module)["nn.batch_norm"]
    assert norms > 0 or name == "squeezenet"  # it has none: nothing may change
    data = {p.name_hint: p for p in module["main"].params if p.name_hint not in params}
    random = np.random.default_rng(1)
    inputs = {
        key: random.normal(size=[int(d) for d in variable.checked_type.shape]).astype("float32")
        for key, variable in data.items()
    }
    reports: list[bnfx.Report] = []
    with tvm.transform.PassContext(opt_level=1):
        theirs = run(relay.build(module, TARGET, params=params), inputs)
    with tvm.transform.PassContext(opt_level=3):
        ours = run(bnfx.tvm.build(module, TARGET, params, report=reports.append), inputs)
    assert relative(ours, theirs) < 1e-4

    (report,) = reports
    outcomes = [v for v in report.verdicts if v.site.kind == "batch_norm"]
    assert len(outcomes) == norms
    assert report.count("kept") == 0
    for verdict in outcomes:
        assert verdict.outcome in ("folded", "merged") or verdict.refusals, "unexplained"
    function = relay.build_module.bind_params_by_name(module["main"], params)
    bound = relay.transform.InferType()(tvm.IRModule.from_expr(function))
    folded = FoldBatchNorm()(bound)
    assert count(folded)["nn.batch_norm"] == 0
    mine, default = affine_ops(optimised(folded)), affine_ops(optimised(bound))
    assert mine <= default, f"{name}: TVM leaves {default} affine ops"
