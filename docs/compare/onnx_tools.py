"""onnxscript's optimizer, and OnnxSlim where it is installed."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import onnxruntime
import torch
from common import case
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)


def net(nodes, constants, shape, opset=17):
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def answer(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return torch.from_numpy(session.run(["y"], {"x": x})[0])


weight = {"w": random.normal(size=(6, 3, 3, 3))}
x = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
conv = helper.make_node("Conv", ["x", "w"], ["c"])
scaled = net(
    [conv, helper.make_node("Mul", ["c", "s"], ["y"])],
    {**weight, "s": random.uniform(0.5, 2, size=(6,))},
    x.shape,
)
norm = {
    "gamma": random.uniform(0.5, 2, 6),
    "beta": random.normal(size=6),
    "mean": random.normal(size=6),
    "var": random.uniform(0.5, 2, 6),
}
training = net(
    [
        conv,
        helper.make_node("BatchNormalization", ["c", *norm], ["y", "m", "v"], training_mode=1),
    ],
    {**weight, **norm},
    x.shape,
)


def onnxscript_of(model):
    from onnxscript import optimizer, rewriter

    return rewriter.rewrite(optimizer.optimize(model))


case(
    "onnxscript",
    "onnxscript",
    "BatchNormalization with training_mode = 1",
    answer(training, x),
    lambda: answer(onnxscript_of(training), x),
)
with contextlib.suppress(ImportError):
    import onnxslim

    case(
        "OnnxSlim",
        "onnxslim",
        "conv(x) * s, s of shape (C,), width C",
        answer(scaled, x),
        lambda: answer(onnxslim.slim(scaled), x),
    )
