"""Where an exported program keeps the tensors that it reads."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument

from bnfx.passes.fx.parameters.sources import memory

STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


def in_constants(program: ExportedProgram, spec: InputSpec) -> bool:
    """Whether a tensor is among the constants, not in the state dict: both may have its name.

    ``layer.__dict__["weight"] = tensor`` makes a constant ``layer.weight`` beside the parameter.
    """
    if spec.kind is InputKind.CONSTANT_TENSOR or spec.persistent is False:
        return True
    return spec.target not in program.state_dict


def fixed_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """The tensors that stay as they are from call to call, by placeholder."""
    signature = program.graph_signature
    stored = [spec for spec in signature.input_specs if spec.kind in STORED]
    mutated = {spec.target for spec in signature.output_specs if spec.kind in _MUTATIONS}
    tensors = {spec.arg.name: _tensor(program, spec) for spec in stored}
    written = {
        memory(tensors[spec.arg.name])
        for spec in stored
        if spec.target in mutated and isinstance(tensors[spec.arg.name], torch.Tensor)
    }
    return {
        spec.arg.name: tensors[spec.arg.name]
        for spec in stored
        if isinstance(spec.arg, TensorArgument)
        and isinstance(tensors[spec.arg.name], torch.Tensor)
        and memory(tensors[spec.arg.name]) not in written
    }


def _tensor(program: ExportedProgram, spec: InputSpec) -> Any:
    tensors: Any = program.constants if in_constants(program, spec) else program.state_dict
    return tensors.get(spec.target)
