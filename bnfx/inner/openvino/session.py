"""Compiles models with OpenVINO, and calls them."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from bnfx.errors import OptionError
from bnfx.inner.answers import TOLERANCE
from bnfx.inner.base import Inner
from bnfx.inner.engines.as_inner import as_inner
from bnfx.inner.engines.built import Run, Sizes, given, room, shared
from bnfx.inner.engines.translate import Translated, translated
from bnfx.options import nearest

_PRECISION = "INFERENCE_PRECISION_HINT"
# Where the user asks for another precision than float32.
_COARSE = {torch.float32: 0.1}


def inner(given: Mapping[str, Any], fallback: Inner) -> Inner:
    """The inner compiler.

    Args:
        given: OpenVINO's properties of a compiled model.
        fallback: has the graphs that OpenVINO does not take.

    Raises:
        OptionError: if OpenVINO is not installed, or has no such property.
    """
    try:
        core = _core()
    except ImportError as error:
        raise OptionError(
            f"inner='openvino' needs OpenVINO ({error}): pip install \"bnfx[openvino]\""
        ) from None
    known = list(core.get_property("CPU", "SUPPORTED_PROPERTIES"))
    for key in given:
        if key not in known:
            raise OptionError(f"OpenVINO has no property {key!r}{nearest(key, known)}")
    return as_inner(OpenVino(given), fallback)


@functools.cache
def _core() -> Any:
    # Not openvino.torch: it switches a setting of Dynamo's.
    return importlib.import_module("openvino").Core()


class OpenVino:
    """The engine. Args: properties of its compiled models, which go before those chosen here."""

    name = "OpenVINO"
    keeps_nan = False

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._properties = {_PRECISION: "f32", "PERFORMANCE_HINT": "LATENCY", **properties}
        exact = str(self._properties[_PRECISION]).endswith(("f32", "float32'>"))
        self.allowed = TOLERANCE if exact else _COARSE

    def build(self, graph: fx.GraphModule) -> Run:
        found = translated(graph, importlib.import_module("openvino.opset14"))
        kind = importlib.import_module("openvino").Model
        model = kind([*found.results], [*found.parameters], "bnfx")
        chosen = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), **self._properties}
        return Requests(_core().compile_model(model, "CPU", chosen), found)


class Requests:
    """Calls a compiled model; one request a thread."""

    def __init__(self, model: Any, found: Translated) -> None:
        self._model = model
        self._taken = found.taken
        self._tensor = importlib.import_module("openvino").Tensor
        self._local = threading.local()
        self._sizes = found.sizes

    def __call__(self, args: Sequence[Any], sizes: Sizes = None) -> list[torch.Tensor]:
        local = self._local.__dict__
        request = local.get("request")
        if request is None:
            request = local["request"] = self._model.create_infer_request()
        known = self._sizes if sizes is None else sizes
        assert known is not None
        inputs, outputs = given(args, self._taken), room(known)
        # Memory that the request knows of outlives it, even when an interrupt ends this call.
        local["memory"] = inputs, outputs
        share = self._tensor
        for at, value in enumerate(inputs):
            request.set_input_tensor(at, share(shared(value), shared_memory=True))
        for at, value in enumerate(outputs):
            request.set_output_tensor(at, share(shared(value), shared_memory=True))
        try:
            request.start_async()
        finally:
            request.wait()
        local["memory"] = None
        return outputs
