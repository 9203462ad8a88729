"""What an exported program's JSON may hold: a table of its kinds, each with its fields.

:func:`checked_program` rebuilds the program from what it has understood, so that torch never
sees anything else. Names are identifiers and texts end no string, as torch writes them into Python
code that it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bnfx.archives import program_leaves as leaf
from bnfx.archives.refused import RefusedError, shown

Check = Callable[[Any], Any]
_GRAPHS = 8  # one in another
_WHOLE = ("PayloadConfig", "Payload", "TensorMeta", "Device")  # what torch does not check


@dataclass(frozen=True)
class List:
    of: str | Check


@dataclass(frozen=True)
class Map:
    key: Check
    of: str | Check


@dataclass(frozen=True)
class Maybe:
    of: Any


@dataclass(frozen=True)
class OneOf:
    """Exactly one of the fields."""

    fields: Mapping[str, Any]


_SYMBOLIC = {"as_name": leaf.name}
_ARGUMENT: dict[str, Any] = {
    "as_none": leaf.boolean,
    "as_tensor": "Tensor",
    "as_tensors": List("Tensor"),
    "as_int": leaf.integer,
    "as_ints": List(leaf.integer),
    "as_float": leaf.number,
    "as_floats": List(leaf.number),
    "as_string": leaf.text,
    "as_strings": List(leaf.text),
    "as_sym_int": "IntArgument",
    "as_sym_ints": List("IntArgument"),
    "as_scalar_type": leaf.dtype,
    "as_memory_format": leaf.memory_format,
    "as_layout": leaf.layout,
    "as_device": "Device",
    "as_bool": leaf.boolean,
    "as_bools": List(leaf.boolean),
    "as_sym_bool": "BoolArgument",
    "as_sym_bools": List("BoolArgument"),
    "as_sym_float": "FloatArgument",
    "as_sym_floats": List("FloatArgument"),
    "as_optional_tensor": "OptionalTensor",
    "as_optional_tensors": List("OptionalTensor"),
    "as_complex": "Complex",
    "as_graph": "SubGraph",
}
_STRUCTS: dict[str, Mapping[str, Any] | OneOf] = {
    "Program": {
        "graph_module": "GraphModule",
        "opset_version": Map(leaf.identifier, leaf.integer),
        "range_constraints": Map(leaf.symbol, "Range"),
        "schema_version": {"major": leaf.integer, "minor": leaf.integer},
        "verifiers": List(leaf.verifier),
        "torch_version": leaf.text,
        "guards_code": List(leaf.guard),
    },
    "Range": {"min_val": Maybe(leaf.integer), "max_val": Maybe(leaf.integer)},
    "GraphModule": {
        "graph": "Graph",
        "signature": {"input_specs": List("InputSpec"), "output_specs": List("OutputSpec")},
        "module_call_graph": List("ModuleCall"),
        "metadata": leaf.dropped,
        "treespec_namedtuple_fields": Map(leaf.text, "NamedTuple"),
    },
    "NamedTuple": {"field_names": List(leaf.identifier)},
    "ModuleCall": {"fqn": leaf.path, "signature": Maybe("ModuleCallSignature")},
    "ModuleCallSignature": {
        "inputs": List("Argument"),
        "outputs": List("Argument"),
        "in_spec": leaf.tree,
        "out_spec": leaf.tree,
        "forward_arg_names": Maybe(List(leaf.identifier)),
    },
    "Graph": {
        "inputs": List("Argument"),
        "outputs": List("Argument"),
        "nodes": List("Node"),
        "tensor_values": Map(leaf.identifier, "TensorMeta"),
        "sym_int_values": Map(leaf.identifier, "SymInt"),
        "sym_bool_values": Map(leaf.identifier, "SymBool"),
        "sym_float_values": Map(leaf.identifier, "SymFloat"),
        "is_single_tensor_return": leaf.boolean,
        "custom_obj_values": leaf.nothing,
    },
    "Node": {
        "target": leaf.operator,
        "inputs": List("NamedArgument"),
        "outputs": List("Argument"),
        "metadata": leaf.metadata,
        "is_hop_single_tensor_return": Maybe(leaf.boolean),
        "name": Maybe(leaf.identifier),
    },
    "NamedArgument": {
        "name": leaf.keyword,
        "arg": OneOf({**_ARGUMENT, "as_string": leaf.message, "as_strings": List(leaf.message)}),
        "kind": Maybe(leaf.argument_kind),
    },
    "TensorMeta": {
        "dtype": leaf.dtype,
        "sizes": List("SymInt"),
        "requires_grad": leaf.boolean,
        "device": "Device",
        "strides": List("SymInt"),
        "storage_offset": "SymInt",
        "layout": leaf.layout,
    },
    "Device": {"type": leaf.device, "index": Maybe(leaf.small)},
    "Expression": {"expr_str": leaf.expression, "hint": Maybe("Hint")},
    "Hint": OneOf({"as_int": leaf.integer, "as_bool": leaf.boolean, "as_float": leaf.number}),
    "SymInt": OneOf({"as_expr": "Expression", "as_int": leaf.integer}),
    "SymFloat": OneOf({"as_expr": "Expression", "as_float": leaf.number}),
    "SymBool": OneOf({"as_expr": "Expression", "as_bool": leaf.boolean}),
    "IntArgument": OneOf({**_SYMBOLIC, "as_int": leaf.integer}),
    "FloatArgument": OneOf({**_SYMBOLIC, "as_float": leaf.number}),
    "BoolArgument": OneOf({**_SYMBOLIC, "as_bool": leaf.boolean}),
    "Tensor": {"name": leaf.name},
    "OptionalTensor": OneOf({"as_tensor": "Tensor", "as_none": leaf.boolean}),
    "Complex": {"real": leaf.number, "imag": leaf.number},
    "SubGraph": {"name": leaf.identifier, "graph": "Graph"},
    "Argument": OneOf(_ARGUMENT),
    "InputSpec": OneOf(
        {
            "user_input": {"arg": "Argument"},
            "parameter": {"arg": "Tensor", "parameter_name": leaf.weight},
            "buffer": {"arg": "Tensor", "buffer_name": leaf.weight, "persistent": leaf.boolean},
            "tensor_constant": {"arg": "Tensor", "tensor_constant_name": leaf.weight},
            "constant_input": {"name": leaf.identifier, "value": "Constant"},
        }
    ),
    "Constant": OneOf(
        {
            "as_none": leaf.boolean,
            "as_int": leaf.integer,
            "as_float": leaf.number,
            "as_string": leaf.text,
            "as_bool": leaf.boolean,
        }
    ),
    "OutputSpec": OneOf(
        {
            "user_output": {"arg": "Argument"},
            "loss_output": {"arg": "Tensor"},
            "buffer_mutation": {"arg": "Tensor", "buffer_name": leaf.weight},
            "parameter_mutation": {"arg": "Tensor", "parameter_name": leaf.weight},
            "gradient_to_parameter": {"arg": "Tensor", "parameter_name": leaf.weight},
            "gradient_to_user_input": {"arg": "Tensor", "user_input_name": leaf.identifier},
            "user_input_mutation": {"arg": "Tensor", "user_input_name": leaf.identifier},
        }
    ),
    "PayloadConfig": {"config": Map(leaf.weight, "Payload")},
    "Payload": {
        "path_name": leaf.payload,
        "is_param": leaf.boolean,
        "use_pickle": leaf.false,
        "tensor_meta": "TensorMeta",
    },
}


def checked_program(data: Any) -> dict[str, Any]:
    """An ``ExportedProgram`` of torch's schema, as JSON, rebuilt.

    Raises:
        RefusedError: if it holds a kind, field, name, operator or text that is not allowed.
    """
    program: dict[str, Any] = _checked("Program", data, _GRAPHS)
    return program


def checked_payloads(data: Any) -> dict[str, Any]:
    """Which entry holds which weight, by the weight's name.

    Raises:
        RefusedError: if one is pickled, or anything else that is not allowed.
    """
    payloads: dict[str, Any] = _checked("PayloadConfig", data, 1)["config"]
    return payloads


def _checked(kind: Any, data: Any, graphs: int) -> Any:
    if isinstance(kind, str):
        graphs -= kind == "SubGraph"
        if graphs < 0:
            raise RefusedError("it has too many graphs in one another")
        return _fields(kind, _STRUCTS[kind], data, graphs)
    if isinstance(kind, List):
        if not isinstance(data, list):
            raise RefusedError(f"{shown(data)} stands where a list belongs")
        return [_checked(kind.of, item, graphs) for item in data]
    if isinstance(kind, Map):
        if not isinstance(data, dict):
            raise RefusedError(f"{shown(data)} stands where a table belongs")
        return {kind.key(key): _checked(kind.of, value, graphs) for key, value in data.items()}
    if isinstance(kind, Maybe):
        return None if data is None else _checked(kind.of, data, graphs)
    if isinstance(kind, (Mapping, OneOf)):
        return _fields("part", kind, data, graphs)
    return kind(data)


def _fields(name: str, known: Mapping[str, Any] | OneOf, data: Any, graphs: int) -> dict[str, Any]:
    fields = known.fields if isinstance(known, OneOf) else known
    if not isinstance(data, dict) or (isinstance(known, OneOf) and len(data) != 1):
        raise RefusedError(f"{shown(data)} stands where a {name} belongs")
    if unknown := data.keys() - fields.keys():
        raise RefusedError(f"the field {shown(min(unknown))} of a {name} is not allowed")
    if name in _WHOLE and any(
        key not in data and not isinstance(kind, Maybe) for key, kind in fields.items()
    ):
        raise RefusedError(f"one of its {name}s lacks a field")
    return {key: _checked(fields[key], value, graphs) for key, value in data.items()}
