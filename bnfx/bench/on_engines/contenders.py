"""What is compared: ways to make a model fast on a CPU, in float32."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import bnfx

Run = Callable[[torch.Tensor], Any]
Prepare = Callable[[nn.Module, torch.Tensor], Run]


def _eager(model: nn.Module, x: torch.Tensor) -> Run:
    return model


def _inductor(model: nn.Module, x: torch.Tensor, *, freezing: bool = False) -> Run:
    # As an option of torch.compile, freezing silently does nothing.
    torch._inductor.config.freezing = freezing
    return torch.compile(model, dynamic=False)


def _bnfx(model: nn.Module, x: torch.Tensor, **options: Any) -> Run:
    return torch.compile(model, backend="bnfx", dynamic=False, options=options)


def _direct(model: nn.Module, x: torch.Tensor) -> Run:
    return bnfx.compile(model, dynamic=False, options={"inner": "auto"})


def _onnxruntime(model: nn.Module, x: torch.Tensor) -> Run:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(each) for each in session.run(None, {name: x.numpy()})]


def _openvino(model: nn.Module, x: torch.Tensor) -> Run:
    openvino: Any = importlib.import_module("openvino")
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    converted = openvino.convert_model(model, example_input=x, input=[tuple(x.shape)])
    request = openvino.Core().compile_model(converted, "CPU", hints).create_infer_request()

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        answers = request.infer([x.numpy()], share_inputs=True)
        return [torch.from_numpy(each) for each in answers.values()]

    return run


CONTENDERS: Mapping[str, Prepare] = {
    "eager": _eager,
    "inductor": _inductor,
    "freezing": functools.partial(_inductor, freezing=True),
    "bnfx": functools.partial(_bnfx, inner="inductor"),
    "bnfx-openvino": functools.partial(_bnfx, inner="openvino"),
    "bnfx-onnxruntime": functools.partial(_bnfx, inner="onnxruntime"),
    "bnfx-onnxruntime-waiting": functools.partial(
        _bnfx, inner="onnxruntime", inner_options={"session.intra_op.allow_spinning": "0"}
    ),
    "bnfx-auto": functools.partial(_bnfx, inner="auto"),
    "bnfx-compile": _direct,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
TWIN = "twin-"  # before a contender's name: what it is given has no BatchNorms
TWINS = tuple(f"{TWIN}{name}" for name in CONTENDERS if name.startswith(("freezing", "bnfx")))
