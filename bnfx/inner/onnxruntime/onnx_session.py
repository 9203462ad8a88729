"""Opens sessions of ONNX Runtime, and calls them on memory of torch's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from bnfx.errors import OptionError
from bnfx.inner.answers import TOLERANCE
from bnfx.inner.base import EngineRefusal, Inner
from bnfx.inner.engines.as_inner import as_inner
from bnfx.inner.engines.built import Run, Sizes, given, room
from bnfx.inner.engines.translate import Translated, translated
from bnfx.inner.onnxruntime.onnx_ops import OnnxOps
from bnfx.options import nearest

# Of a message of protobuf's.
_MAX_BYTES = 2**31 - 1


def inner(given: Mapping[str, Any], fallback: Inner) -> Inner:
    """The inner compiler.

    Args:
        given: attributes of ``onnxruntime.SessionOptions``, and its configuration entries, whose
            names begin with ``session.``.
        fallback: has the graphs that ONNX Runtime does not take.

    Raises:
        OptionError: if ONNX Runtime or onnx is not installed, or there is no such option.
    """
    try:
        runtime: Any = importlib.import_module("onnxruntime")
        importlib.import_module("onnx")
    except ImportError as error:
        raise OptionError(
            f"inner='onnxruntime' needs ONNX Runtime and onnx ({error}): "
            'pip install "bnfx[onnxruntime]"'
        ) from None
    _options(runtime, given)
    return as_inner(OnnxRuntime(given), fallback)


def _options(runtime: Any, given: Mapping[str, Any]) -> Any:
    options = runtime.SessionOptions()
    known = [name for name in dir(options) if not name.startswith("_")]
    known = [name for name in known if not callable(getattr(options, name))]
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    for key, value in {**_spinning(runtime), **given}.items():
        if key.startswith("session."):
            options.add_session_config_entry(key, str(value))
        elif key not in known:
            raise OptionError(f"ONNX Runtime's SessionOptions have no {key!r}{nearest(key, known)}")
        else:
            try:
                setattr(options, key, value)
            except (TypeError, RuntimeError) as error:
                why = str(error).splitlines()[0]
                raise OptionError(f"ONNX Runtime: {key}={value!r} is not valid: {why}") from None
    return options


def _spinning(runtime: Any) -> dict[str, str]:
    """For how long its threads look for work before they sleep.

    By default, a tenth of a second after each call, which takes the cores from whatever the program
    does next. If they sleep at once, they are to be woken in each of the calls that follow.
    """
    if tuple(map(int, runtime.__version__.split(".")[:2])) >= (1, 27):
        return {"session.intra_op.spin_duration_us": "500"}
    return {"session.force_spinning_stop": "1"}


class OnnxRuntime:
    """The engine. Args: options of its sessions, which go before those chosen here."""

    name = "ONNX Runtime"
    allowed = TOLERANCE
    keeps_nan = True

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def build(self, graph: fx.GraphModule) -> Run:
        runtime: Any = importlib.import_module("onnxruntime")
        ops = OnnxOps()
        found = translated(graph, ops)
        try:
            model = ops.model(found.parameters, found.results)
        except ValueError as error:  # protobuf's limit
            raise EngineRefusal(f"its weights are too large for one ONNX file: {error}") from None
        if len(model) > _MAX_BYTES:
            raise EngineRefusal("its weights are larger than an ONNX file in memory may be")
        options = _options(runtime, self._given)
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Bindings(session, found)


class Bindings:
    """Calls a session; each call binds memory of its own, so threads may call at once."""

    def __init__(self, session: Any, found: Translated) -> None:
        self._session = session
        self._taken = found.taken
        self._inputs = [each.name for each in session.get_inputs()]
        self._outputs = [each.name for each in session.get_outputs()]
        self._sizes = found.sizes

    def __call__(self, args: Sequence[Any], sizes: Sizes = None) -> list[torch.Tensor]:
        binding = self._session.io_binding()
        known = self._sizes if sizes is None else sizes
        assert known is not None
        inputs, outputs = given(args, self._taken), room(known)
        for name, value in zip(self._inputs, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, np.float32, tuple(value.shape), value.data_ptr())
        for name, value in zip(self._outputs, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, tuple(value.shape), value.data_ptr())
        self._session.run_with_iobinding(binding)
        return outputs
