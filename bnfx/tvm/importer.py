"""PyTorch -> Relax, by TVM's importer of exported programs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

import bnfx
from bnfx.errors import BuildError, TrainingModeError
from bnfx.passes.relax.compat import TensorType, constant, name_of, type_of
from bnfx.passes.relax.shapes import dtype_of
from bnfx.tvm.binding import named
from bnfx.tvm.converters import CONVERTERS
from bnfx.tvm.faults import fault_of
from bnfx.tvm.ops import TABLE, Lowering, OpCall
from bnfx.tvm.ops.constant_nodes import CONSTANT, mark
from bnfx.tvm.ops.pools import state_strides
from bnfx.tvm.repairs import AS_TORCH
from bnfx.tvm.resizes import decompositions

log = logging.getLogger("bnfx")


def from_torch(
    model: torch.nn.Module | torch.export.ExportedProgram,
    *example_inputs: Any,
    dynamic_shapes: Any = None,
) -> tvm.IRModule:
    """A model as a Relax module, its parameters bound as constants.

    Where TVM's importer fails, the model is folded by :func:`bnfx.fold` first, and imported then:
    a BatchNorm that the importer cannot take may be gone. What the importer is known to get wrong
    (:mod:`bnfx.tvm.faults`) is written by :mod:`bnfx.tvm.ops` instead, or refused.

    Args:
        model: in evaluation mode; or an exported program, which needs no inputs.
        example_inputs: its positional arguments.
        dynamic_shapes: of ``torch.export.export``.

    Returns:
        A module whose ``main`` takes the inputs and returns a tuple of the outputs. Nothing in it
        is folded unless it had to be; :func:`bnfx.tvm.build` folds.

    Raises:
        TrainingModeError: if a BatchNorm of the model is in training mode.
        BuildError: if the model cannot be exported, or TVM's importer does not know its ops or
            gets them wrong.
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
    program = program.run_decompositions(decompositions())
    state_strides(program.graph)
    signature = program.graph_signature
    parameters = signature.inputs_to_parameters
    names = {
        **parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    held = {**program.state_dict, **program.constants}
    places = program.graph.find_nodes(op="placeholder")
    mark(program.graph, {node: held[names[node.name]] for node in places if node.name in names})
    module = from_exported_program(
        program,
        custom_convert_map={name: _checked(name) for name in _known() if "." in name},
        run_ep_decomposition=False,
        keep_params_as_input=True,
    )
    return _with_parameters(module, {name: (path, held[path]) for name, path in parameters.items()})


def _with_parameters(module: Any, parameters: Mapping[str, tuple[str, Any]]) -> tvm.IRModule:
    """The imported module with its parameters as constants that know whose they are.

    Args:
        parameters: the name in ``main`` -> the path in the model, and the tensor.
    """
    main = module.get_global_var("main")
    taken = {name_of(variable) for variable in module["main"].params}
    function = module["main"].without_attr("params").without_attr("num_input")
    module.update_func(main, function.with_attr(AS_TORCH, True))
    constants = {
        name: named(tensor, path) for name, (path, tensor) in parameters.items() if name in taken
    }
    module = relax.transform.BindParams("main", constants)(module)
    assert isinstance(module, tvm.IRModule)
    return module


@functools.cache
def _known() -> frozenset[str]:
    """The names of the ops that TVM's importer knows, and those that are written here."""
    return frozenset({*ExportedProgramImporter().create_convert_map(), *CONVERTERS, *TABLE})


def _checked(name: str) -> Any:
    """A converter of an operator: ours where TVM's is known to be wrong, and TVM's otherwise.

    What it gives has the shape and dtype that the program states, or the import fails.
    """

    def convert(node: torch.fx.Node, importer: Any) -> Any:
        known = node.meta.get(CONSTANT)
        if isinstance(known, torch.Tensor) and known.dtype in (torch.int32, torch.int64):
            return constant(known.numpy())  # sizes and places; floats are there to be folded
        if name in CONVERTERS:
            return CONVERTERS[name](node, importer)
        call = OpCall(node) if isinstance(node.target, torch._ops.OpOverload) else None
        if call is not None and torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
            raise ValueError(f"{name} is random, and TVM would draw no numbers, or the same ones")
        theirs = importer.create_convert_map().get(name)
        wrong = fault_of(name, call) if call is not None else None
        if call is not None and (wrong or theirs is None):
            row = TABLE.get(name)
            refusal = "it is not written here" if row is None else row.refusal(call)
            if row is None or refusal:
                raise ValueError(f"{name} {wrong or 'is unknown to TVM'}, and {refusal}")
            result = Lowering(call, importer.block_builder, importer.env).run(row)
        else:
            result = theirs(node)
        _require_type(name, result, node.meta.get("val"))
        return result

    return convert


def _require_type(name: str, ours: Any, theirs: Any) -> None:
    if isinstance(theirs, (tuple, list)) and isinstance(ours, (tuple, list)):
        for one, other in zip(ours, theirs, strict=False):
            _require_type(name, one, other)
        return
    kind = type_of(ours) if isinstance(ours, relax.Expr) else None
    if not isinstance(theirs, torch.Tensor) or not isinstance(kind, TensorType):
        return
    dtype = dtype_of(kind)
    if dtype != str(theirs.dtype).removeprefix("torch."):
        raise ValueError(f"{name} becomes {dtype} in TVM, and is {theirs.dtype}")
    if kind.shape is None:
        return
    sizes = [getattr(size, "value", None) for size in kind.shape.values]
    wrong = len(sizes) != theirs.dim() or any(
        isinstance(known, int) and isinstance(size, int) and known != size
        for size, known in zip(sizes, theirs.shape, strict=True)
    )
    if wrong:
        raise ValueError(f"{name} becomes {sizes} in TVM, and is of {tuple(theirs.shape)}")
