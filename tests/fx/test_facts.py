"""The table of facts, each fact of each op in each of its spellings, on real tensors."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.op_samples import BY_SPELLING, SAMPLES, UNARY, Arguments, t
from op_tables import tables
from torch import Tensor, fx, nn

from bnfx.passes.fx.calls.call import ALGEBRA
from bnfx.passes.fx.calls.structure import STRUCTURE
from bnfx.passes.fx.facts.known import Facts
from bnfx.passes.fx.facts.op_table import TABLE
from bnfx.passes.fx.facts.spelling import FUNCTIONS, METHODS, Spelling, facts_of, named, spelling_of


def rows(holds: Callable[[Facts], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", list(filter(holds, TABLE)), ids=lambda row: row.name)


def spellings(row: Facts) -> Iterator[tuple[str, Callable[..., Any], bool]]:
    """Each way to call the op, and whether it writes over its first argument."""
    for function, spelling in FUNCTIONS.items():
        if spelling.facts is row:
            yield f"{function.__module__}.{function.__name__}", function, bool(spelling.functional)
    for name, spelling in METHODS.items():
        if spelling.facts is row:
            method: Any = getattr(torch.Tensor, name)
            yield f"Tensor.{name}", method, spelling.functional is not None
    for name in row.names:
        attribute = hasattr(torch.Tensor, name) and not callable(getattr(torch.Tensor, name))
        if attribute:
            yield f"Tensor.{name}", lambda x, name=name: getattr(x, name), False
        packet = None if attribute else getattr(torch.ops.aten, name, None)
        if packet is not None and row.name not in (
            "batch_norm",
            "native_batch_norm",
            "instance_norm",
        ):
            yield f"aten.{name}", packet, False


def samples(row: Facts, function: Any) -> list[Arguments]:
    found = BY_SPELLING.get(function) if function.__hash__ else None
    return found or SAMPLES.get(row.name) or UNARY


def calls(
    row: Facts, in_place: bool = False
) -> Iterator[tuple[str, Callable[..., Any], Arguments]]:
    """Every spelling with every sample that it takes; each spelling takes one."""
    for name, function, writes in spellings(row):
        taken = 0
        for arguments in samples(row, function) if writes == in_place else ():
            copies = copied(arguments)
            try:
                function(*copies)
            except (TypeError, RuntimeError, ValueError, IndexError, NotImplementedError):
                continue
            taken += 1
            yield name, function, arguments
        if writes == in_place and not (in_place or name in UNTRIED):
            assert taken, f"no sample fits {name}"


# Spelled alike, but called in a way of their own. The last is known once the backend is imported.
UNTRIED = {
    "torch._C._nn.elu",
    "torch._C._nn.pad",
    "bnfx.passes.fx.training.uncaptured.batch_norm_to_swap",
}


def copied(arguments: Any) -> Any:
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(map(copied, arguments))
    if not isinstance(arguments, Tensor):
        return arguments
    return torch.empty_strided(arguments.shape, arguments.stride(), dtype=arguments.dtype).copy_(
        arguments
    )


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return (
        [each for part in value for each in tensors(part)]
        if isinstance(value, (tuple, list))
        else []
    )


def memories(value: Any) -> set[int]:
    return {each.untyped_storage().data_ptr() for each in tensors(value)}


@rows(lambda row: row.fresh)
def test_results_are_fresh(row: Facts) -> None:
    for name, function, arguments in calls(row):
        arguments = copied(arguments)
        shared = memories(function(*arguments)) & memories(arguments)
        assert not shared, f"{name} gave back its argument"


@rows(lambda row: row.pure)
def test_pure_ops_depend_on_their_arguments_alone(row: Facts) -> None:
    for name, function, arguments in calls(row):
        arguments, before = copied(arguments), copied(arguments)
        state = torch.get_rng_state()
        one, other = function(*arguments), function(*arguments)
        assert all(map(torch.equal, tensors(one), tensors(other))), name
        assert torch.equal(state, torch.get_rng_state()), f"{name} draws random numbers"
        assert all(map(torch.equal, tensors(arguments), tensors(before))), f"{name} writes"


@rows(lambda row: any(writes for *_, writes in spellings(row)))
def test_in_place_twins_are_what_they_say(row: Facts) -> None:
    """They write over the first argument and nothing else, what the functional form computes; and
    of that dtype, if the row says so.
    """
    for name, function, sample in calls(row, in_place=True):
        spelling = FUNCTIONS.get(function) or METHODS[name.removeprefix("Tensor.")]
        for dtype in (torch.float32, torch.float16, torch.float64, torch.int32):
            arguments = [a.to(dtype) if isinstance(a, Tensor) else a for a in copied(sample)]
            before = copied(arguments)
            try:
                result = function(*arguments)
            except (RuntimeError, TypeError):
                continue
            assert memories(result) & memories(arguments[0]) or name.startswith("_operator"), name
            rest = zip(tensors(arguments[1:]), tensors(before[1:]), strict=True)
            assert all(torch.equal(one, other) for one, other in rest), f"{name} writes elsewhere"
            if row.keeps_dtype and row.pure:
                functional = spelling.functional
                if isinstance(functional, str):
                    functional = getattr(Tensor, functional)
                value = functional(*before)  # type: ignore[misc]
                assert value.dtype == dtype, f"{name} of {dtype}"
                assert torch.equal(value, result), name


@rows(lambda row: row.keeps_dtype)
def test_dtype_is_kept(row: Facts) -> None:
    for name, function, sample in calls(row):
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            arguments = [a.to(dtype) if isinstance(a, Tensor) else a for a in copied(sample)]
            assert function(*arguments).dtype == dtype, name


def _has_flag(row: Facts) -> bool:
    function = getattr(F, row.name, None)
    return inspect.isfunction(function) and "inplace" in inspect.signature(function).parameters


@rows(_has_flag)
def test_an_inplace_argument_writes(row: Facts) -> None:
    function = getattr(F, row.name)
    x = t(2, 3, 4) if row.name.endswith("1d") else t(2, 3, 4, 4)
    data = x.data_ptr()
    kwargs = {"training": True} if "dropout" in row.name else {}
    assert function(x, inplace=True, **kwargs).data_ptr() == data
    assert function(x, inplace=False, **kwargs).data_ptr() != data


@rows(lambda row: row.metadata)
def test_metadata_readers_read_no_element(row: Facts) -> None:
    """They give the same for other numbers, and for no numbers at all."""
    for name, function, arguments in calls(row):
        if name.startswith("aten.") and row.name not in ("_assert_tensor_metadata",):
            continue
        x = arguments[0]
        values = [function(each, *arguments[1:]) for each in (x, torch.zeros_like(x))]
        assert values[0] == values[1], name
        if row.name not in ("device", "layout", "is_cuda"):
            assert function(x.to("meta"), *arguments[1:]) == values[0], name


@rows(lambda row: row.like)
def test_other_tensors_are_read_for_their_metadata_alone(row: Facts) -> None:
    for name, function, arguments in calls(row):
        others = [torch.full_like(a, 7) if isinstance(a, Tensor) else a for a in arguments[1:]]
        assert torch.equal(function(*arguments), function(arguments[0], *others)), name


@rows(lambda row: bool(row.modules))
def test_modules_call_the_op(row: Facts) -> None:
    """Each class gives what the function gives for its attributes, and shares memory as it says."""
    for kind in row.modules:
        if kind is nn.SyncBatchNorm:
            continue  # needs several processes
        leaf, x = module(kind)
        leaf.train("dropout" in row.name)
        before = x.clone()
        result = leaf(x)
        assert torch.equal(before, x)
        if row.fresh:
            assert not memories(result) & memories(x), kind
        if "dropout" not in row.name:
            assert torch.equal(result, leaf(x))
        function = getattr(F, row.name, None)
        if row.keeps_dtype and "dropout" not in row.name and inspect.isfunction(function):
            names = list(inspect.signature(function).parameters)[1:]
            given = {name: getattr(leaf, name) for name in names if hasattr(leaf, name)}
            assert torch.equal(function(x, **given), result), kind


def module(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    name = kind.__name__
    rank = int(name[-2]) if name[-2:] in ("1d", "2d", "3d") else 2
    x = torch.randn(2, 4, *(4,) * rank)
    arguments: dict[str, Arguments] = {"Linear": (4, 4), "GroupNorm": (2, 4), "LayerNorm": (4,)}
    arguments |= {"PixelShuffle": (2,), "PixelUnshuffle": (2,), "ChannelShuffle": (2,)}
    arguments |= {"Unflatten": (1, (2, 2)), "Upsample": (4,)}
    by_prefix: dict[str, Arguments] = {"ConstantPad": (0, 1.0), "Conv": (4, 4, 1), "Batch": (4,)}
    by_prefix |= {"Instance": (4,), "Max": (1,), "Avg": (1,), "Adaptive": (4,)}
    by_prefix |= {"ZeroPad": (0,), "Reflection": (0,), "Replication": (0,), "Circular": (0,)}
    found = next((given for prefix, given in by_prefix.items() if name.startswith(prefix)), ())
    return kind(*arguments.get(name, found)), x


def test_every_op_has_one_row_and_every_role_a_row() -> None:
    names = [name for row in TABLE for name in row.names]
    assert len(set(names)) == len(names)
    for role in (*ALGEBRA, *STRUCTURE):
        assert named(role).name == role


def test_unknown_ops_have_no_facts() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    unknown = [
        graph.call_function(torch.cumsum, (x, 0)),
        graph.call_function(torch.ops.aten.add.out, (x, x), {"out": x}),
        graph.call_method("cumsum", (x, 0)),
        graph.call_function(lambda x: x, (x,)),
        graph.call_function(getattr, (x, "grad")),
        graph.placeholder("add"),
    ]
    assert [facts_of(node) for node in unknown] == [None] * len(unknown)


@pytest.mark.parametrize(
    ("target", "name", "functional"),
    [
        (torch.ops.aten.add_.Tensor, "add", torch.ops.aten.add.Tensor),
        (torch.ops.aten.relu_.default, "relu", torch.ops.aten.relu.default),
        (torch.ops.aten.subtract.Tensor, "sub", None),
        (torch.ops.aten.relu, "relu", None),
        (torch.relu_, "relu", torch.relu),
        (torch.nn.functional.elu_, "elu", torch._C._nn.elu),
        (torch.true_divide, "div", None),
    ],
)
def test_spellings(target: Any, name: str, functional: Any) -> None:
    graph = fx.Graph()
    spelling = spelling_of(graph.call_function(target, (graph.placeholder("x"),)))
    assert isinstance(spelling, Spelling)
    assert (spelling.facts.name, spelling.functional) == (name, functional)


def test_ops_are_listed_in_few_places() -> None:
    """A new op is a row of facts, and one in the table of its role."""
    folder = Path(sys.modules["bnfx.passes.fx"].__file__ or "").parent
    common = {"relu", "add", "cat", "mean", "view"}
    found = ((path, set(names)) for path in folder.rglob("*.py") for _, names in tables(path))
    files = {path.name for path, names in found if common & names}
    allowed = {"op_table.py", "structure.py", "movements.py", "arithmetic.py", "trace.py"}
    assert files <= allowed
