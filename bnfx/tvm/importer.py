"""PyTorch -> Relax, by TVM's importer of exported programs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

import bnfx
from bnfx.errors import BuildError, TrainingModeError
from bnfx.passes.relax.compat import type_of
from bnfx.tvm.partition import Unsupported, unknown

log = logging.getLogger("bnfx")

_CONVS = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
_TRANSPOSED = {
    1: relax.op.nn.conv1d_transpose,
    2: relax.op.nn.conv2d_transpose,
    3: relax.op.nn.conv3d_transpose,
}


def from_torch(
    model: torch.nn.Module | torch.export.ExportedProgram,
    *example_inputs: Any,
    dynamic_shapes: Any = None,
) -> tvm.IRModule:
    """A model as a Relax module, its parameters bound as constants.

    Where TVM's importer fails, the model is folded by :func:`bnfx.fold` first, and imported then:
    a BatchNorm that the importer cannot take may be gone.

    Args:
        model: in evaluation mode; or an exported program, which needs no inputs.
        example_inputs: its positional arguments.
        dynamic_shapes: of ``torch.export.export``.

    Returns:
        A module whose ``main`` takes the inputs and returns a tuple of the outputs. Nothing in it
        is folded unless it had to be; :func:`bnfx.tvm.build` folds.

    Raises:
        TrainingModeError: if a BatchNorm of the model is in training mode.
        BuildError: if the model cannot be exported, or TVM's importer does not know its ops.
    """
    if isinstance(model, torch.export.ExportedProgram):
        try:
            return _imported(model)
        except Exception as error:
            raise BuildError(f"TVM cannot import this program: {error}") from error
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase) and module.training:
            raise TrainingModeError(f"{name or 'the model'} is in training; call model.eval()")
    try:
        if any(tensor.dtype is torch.bfloat16 for tensor in model.state_dict().values()):
            raise TypeError("weights of bfloat16 are folded by torch: NumPy has none")
        return _imported(_exported(model, example_inputs, dynamic_shapes))
    except Exception as error:
        first = error
    try:
        folded = bnfx.fold(model, *example_inputs, keep="graph")
        module = _imported(_exported(folded, example_inputs, dynamic_shapes))
    except Exception as second:
        log.debug("bnfx: folded before the import, it failed as well: %r", second)
        raise BuildError(_reason(first, example_inputs)) from first
    log.info("bnfx: folded before the import, which failed otherwise: %r", first)
    return module


def _reason(error: Exception, inputs: Sequence[Any]) -> str:
    """Why a model cannot be imported, and whether its inputs look odd."""
    message = f"TVM cannot import this model: {error}"
    if not inputs or (len(inputs) == 1 and isinstance(inputs[0], (tuple, list))):
        message += "\nPass the model's inputs one by one: bnfx.tvm.from_torch(model, x)"
    return message


def _exported(model: torch.nn.Module, inputs: Any, dynamic_shapes: Any) -> Any:
    with torch.no_grad():
        return torch.export.export(model, tuple(inputs), dynamic_shapes=dynamic_shapes)


def _imported(program: torch.export.ExportedProgram) -> tvm.IRModule:
    module = from_exported_program(program, custom_convert_map=_CONVERTERS)
    assert isinstance(module, tvm.IRModule)
    return module


def import_program(program: torch.export.ExportedProgram) -> tvm.IRModule:
    """A decomposed program as a Relax module, its parameters bound as constants.

    Raises:
        Unsupported: naming the ops that the importer does not know.
    """
    names = unknown(program, known_ops())
    if names:
        raise Unsupported(names, program)
    module = from_exported_program(
        program, custom_convert_map=_CONVERTERS, run_ep_decomposition=False
    )
    assert isinstance(module, tvm.IRModule)
    return module


@functools.cache
def known_ops() -> frozenset[str]:
    """The names of the ops that TVM's importer knows, and those it is taught here."""
    return frozenset({*ExportedProgramImporter().create_convert_map(), *_CONVERTERS})


def _convolution(node: torch.fx.Node, importer: Any) -> Any:
    """``aten.convolution`` of any dtype, and transposed ones of three dimensions.

    TVM's own converter makes every convolution's output float32, whatever it is given, and knows
    transposed ones of one and two dimensions alone.
    """
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = (
        importer.env[argument] if isinstance(argument, torch.fx.Node) else argument
        for argument in node.args
    )
    spatial = len(type_of(weight).shape) - 2
    arguments: dict[str, Any] = {
        "strides": _spread(stride, spatial),
        "padding": _spread(padding, spatial),
        "dilation": _spread(dilation, spatial),
        "groups": groups,
    }
    if transposed:
        arguments["output_padding"] = _spread(extra, spatial)
    call = (_TRANSPOSED if transposed else _CONVS)[spatial]
    builder = importer.block_builder
    result = builder.emit(call(x, weight, **arguments))
    if bias is None:
        return result
    shape = [1, -1, *(1 for _ in range(spatial))]
    return builder.emit(relax.op.add(result, builder.emit(relax.op.reshape(bias, shape))))


def _spread(values: Any, count: int) -> list[int]:
    """One number for each dimension; torch may give one for all."""
    return list(values) * count if len(values) == 1 else list(values)


def _product(node: torch.fx.Node, importer: Any) -> Any:
    """``aten.mm`` and ``bmm`` of any dtype; TVM's own give float32."""
    one, other = (importer.env[argument] for argument in node.args)
    return importer.block_builder.emit(relax.op.matmul(one, other))


def _sum_with_product(node: torch.fx.Node, importer: Any) -> Any:
    """``aten.addmm`` of any dtype: ``beta * bias + alpha * (one @ other)``."""
    bias, one, other = (importer.env[argument] for argument in node.args)
    emit = importer.block_builder.emit
    product = emit(relax.op.matmul(one, other))
    for name, value in node.kwargs.items():
        if name not in ("beta", "alpha"):
            raise ValueError(f"addmm has an argument {name}")
        dtype = str(type_of(product).dtype).removeprefix("T.")
        factor = relax.const(np.asarray(value, dtype), dtype)
        if name == "beta":
            bias = emit(relax.op.multiply(bias, factor))
        else:
            product = emit(relax.op.multiply(product, factor))
    return emit(relax.op.add(bias, product))


# By the names of the ops, as TVM's importer has them.
_CONVERTERS = {
    "convolution.default": _convolution,
    "mm.default": _product,
    "bmm.default": _product,
    "addmm.default": _sum_with_product,
}
