"""Forms of one graph, the bodies that are compiled from them, and the sets that they serve."""

from __future__ import annotations

import gc
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from folding import ENGINE, FREEZES, PACKS, PLAIN, Made, as_it_is, captured, fail, made
from torch import fx, nn

from bnfx.inner.base import Inner
from bnfx.passes.algebra import Source
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import rewrite_captured
from bnfx.weights import folded, programs
from bnfx.weights.arguments import Arguments
from bnfx.weights.body import MAX_LATE_BODIES, Program
from bnfx.weights.changes.snapshot import Moment, Snapshot
from bnfx.weights.folded import MAX_PARAMETER_SETS, FoldedSets, FoldedState
from bnfx.weights.ways import PlainBody, Way, always


def compiled(inner: Inner = PLAIN, spoilt: int | None = None) -> Made:
    each = made(inner, spoilt)
    each.compile()
    return each


def test_another_form_for_other_numbers(caplog: pytest.LogCaptureFixture) -> None:
    """One where a BatchNorm does not fold by now; the first again where it does."""
    each = compiled()
    forms = each.function._programs
    first, second = each.variances
    first[0] = -1.0
    assert each.is_right()
    other = each.state.program
    assert other not in (forms.first, forms.original)
    assert forms._programs == (forms.first, other)
    first[1] = -1.0
    assert each.is_right()
    assert each.state.program is other
    first.fill_(1.0)
    assert each.is_right()
    assert each.state.program is forms.first
    assert not caplog.records
    second[0] = first[0] = -1.0
    assert each.is_right()
    assert each.state.program is forms.original
    assert "cannot be folded; the original graph is used" in caplog.text


def test_so_many_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MAX_PROGRAMS", 2)
    each = compiled()
    first, second = each.variances
    first[0] = -1.0
    assert each.is_right()
    first[0], second[0] = 1.0, -1.0
    assert each.is_right()
    assert each.state.program is each.function._programs.original


def test_a_form_that_is_known_gets_another_recipe() -> None:
    each = compiled()
    first, _ = each.variances
    first[0] = -1.0
    assert each.is_right()
    known = each.state.program
    known.recipe = None
    first[1] = -1.0
    assert each.is_right()
    assert each.state.program is known
    assert len(each.function._programs._programs) == 2
    assert known.recipe is not None


def test_a_form_that_reads_more() -> None:
    """Its parameters are watched from then on, and read once more before it is filled."""
    each = compiled(spoilt=0)
    before = set(each.function._programs.watched)
    first, second = each.variances
    assert not any(each.args[at] is first for at in before)
    first[0], second[0] = 1.0, -1.0
    assert each.is_right()
    assert each.state.program is not each.function._programs.original
    watched = set(each.function._programs.watched)
    assert watched > before
    first.mul_(2)
    assert each.is_right()


def test_the_same_form() -> None:
    graph, examples = captured()
    rewritten = rewrite_captured(graph, GraphInputs.of(graph, examples))
    program = compiled().function._programs.first
    assert program.is_form_of(rewritten)
    assert not program.is_form_of(replace(rewritten, slots=rewritten.slots[:-1]))
    assert not program.is_form_of(replace(rewritten, module=graph))


@pytest.mark.parametrize("inner", [PLAIN, PACKS])
def test_so_many_late_bodies(inner: Inner, caplog: pytest.LogCaptureFixture) -> None:
    """PyTorch runs the graph for more sizes."""
    each = compiled(inner)
    program, numbers = each.function._programs.first, each.function._read(each.args)
    weights = program.fill(numbers)
    assert weights is not None
    never = PlainBody(lambda args: False, as_it_is)
    for count in (MAX_LATE_BODIES - 1, MAX_LATE_BODIES):
        program.bodies = (never,) * count
        program.compile_late(numbers, weights)
        assert len(program.bodies) == count + 1
        program.compile_late(numbers, weights)
        assert len(program.bodies) == count + 1
        assert (program.bodies[-1].fits is always) == (count == MAX_LATE_BODIES)
        assert len(caplog.records) == (count == MAX_LATE_BODIES)


@pytest.mark.parametrize("form", ["pack", "compile"])
def test_a_late_body_that_fails(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """Packed, plain, or PyTorch's."""
    each = compiled(PACKS if form == "pack" else PLAIN)
    forms = each.function._programs
    forms._inner = replace(forms._inner, **{form: fail(ValueError("broken"))})
    each.variances[0][0] = -1.0
    assert each.is_right()
    assert "broken" in caplog.text
    program = each.state.program
    assert program is not forms.first
    assert not program.packs
    (body,) = program.bodies
    assert isinstance(body, PlainBody)


def test_bodies_that_are_packed() -> None:
    each = compiled(PACKS)
    assert each.function._programs.first.packs
    each.variances[0][0] = -1.0
    assert each.is_right()
    assert not isinstance(each.state.program.bodies[0], PlainBody)
    each.spoil()
    assert each.is_right()
    assert each.state.program is each.function._programs.original
    assert not each.state.program.packs


def test_a_program_without_numbers_is_no_form() -> None:
    each = compiled()
    program, numbers = each.function._programs.first, each.function._read(each.args)
    program.recipe = None
    assert program.fill(numbers) is None
    assert each.function._programs.original.fill(numbers) == []


def test_weights_in_the_layout_of_the_compiler() -> None:
    each = compiled(Inner(as_it_is, weight_layout=lambda weight: weight.clone().fill_(2.0)))
    program, numbers = each.function._programs.first, each.function._read(each.args)
    weights = program.fill(numbers)
    assert weights
    assert all(bool((weight == 2.0).all()) for weight in weights)
    each.spoil()
    assert program.fill(each.function._read(each.args)) is None


def test_an_engine_compiles_no_late_body() -> None:
    """It takes constants, once they have settled; till then PyTorch runs the graph."""
    each = made(ENGINE)
    each.compile("frozen")
    each.variances[0].mul_(2)
    assert each.is_right()
    program = each.state.program
    (body,) = program.bodies
    assert (body.fits, body.run) == (always, program.module)


def test_a_new_form_that_cannot_be_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    each = compiled()
    each.variances[0][0] = -1.0
    monkeypatch.setattr(Program, "fill", lambda self, numbers: None)
    assert each.is_right()
    assert each.state.program is each.function._programs.original


def state(tensors: list[torch.Tensor], number: float = 0.0, settled: bool = True) -> FoldedState:
    way = Way(always, lambda args: args)
    return FoldedState(Moment(Snapshot(tensors), (number,), settled), None, (way,))  # type: ignore


def test_sets() -> None:
    """The latest first, each once, so many, and those that are settled."""
    sets, one, other = FoldedSets(), [torch.zeros(3)], [torch.zeros(3)]
    first, second = state(one), state(other)
    for each in (first, second):
        sets.publish(each)
    assert sets.states == (second, first)
    assert sets.of(one, (0.0,)) is first
    assert sets.of(other, (0.0,)) is second
    assert sets.of(one, (1.0,)) is None
    sets.publish(state(one, settled=False))
    assert sets.states == (second, first)
    newer = state(one)
    sets.publish(newer)
    assert sets.states == (newer, second)
    for number in range(1, 2 * MAX_PARAMETER_SETS):
        sets.publish(state(one, number))
    assert len(sets.states) == MAX_PARAMETER_SETS
    assert sets.of(one, (2.0 * MAX_PARAMETER_SETS - 1,)) is sets.states[0]


def test_sets_that_nobody_can_call_with_are_let_go() -> None:
    sets, kept, shared = FoldedSets(), torch.zeros(3), torch.zeros(3)
    for tensors in ([kept], [torch.zeros(3)], [shared, kept], [shared, torch.zeros(3)]):
        sets.publish(state(tensors))
    del tensors
    sets.let_go()
    assert [len(each.moment.snapshot.tensors) for each in sets.states] == [2, 1]
    before = sets.states
    sets.let_go()
    assert sets.states is before
    del shared
    sets.let_go()
    assert [len(each.moment.snapshot.tensors) for each in sets.states] == [1]


def refusal(**changed: torch.Tensor) -> str:
    graph = fx.Graph()
    x, w, b = (graph.placeholder(name) for name in "xwb")
    graph.output((graph.call_function(torch.addmm, (b, x, w)),))
    inputs = {"x": torch.ones(2, 2), "w": nn.Parameter(torch.ones(2, 2)), "b": torch.ones(2)}
    inputs |= changed
    parameters = {name: inputs[name] for name in "wb"}
    positions = {name: at for at, name in enumerate("xwb")}
    known = GraphInputs(positions, parameters, {}, {"x": inputs["x"]})
    return Arguments.of(fx.GraphModule({}, graph), known).refusal


class Wrapped(torch.Tensor):
    pass


def test_parameters_that_cannot_be_constants() -> None:
    assert refusal() == ""
    assert refusal(x=torch.ones(2, 2, dtype=torch.float64)) == ""
    assert refusal(b=torch.ones(2, dtype=torch.long)) == ""
    assert refusal(w=torch.ones(2, 2, dtype=torch.float64)) == "oneDNN has no float64"
    odd: list[Any] = [torch.ones(2).as_subclass(Wrapped), torch.ones(2).to_sparse()]
    for each in (*odd, torch.ones(2, dtype=torch.complex64)):
        assert refusal(b=each) == "b is no plain tensor"


def test_what_may_be_folded_from() -> None:
    """What is watched, and numbers; nothing that nobody vouches for."""
    positions = {name: at for at, name in enumerate("xwbe")}
    arguments = Arguments(positions, {"w": 1, "b": 2}, {"e": 3}, {"x": 0}, (), "", {})
    assert arguments.tensors("XWBE", {0, 2}) == {"b": "B", "e": "E"}
    assert arguments.scalar_values([0, 0, 0, torch.tensor(0.5)]) == (0.5,)


def test_what_conditions_read_is_watched() -> None:
    """Beside what the slots are computed from; all, where that is not known."""

    def source(name: str) -> Source:
        return Source(name, (), "float64")

    affine, weight, bias, sign, slot = map(source, ("a", "w", "b", "s", "slot"))
    operators = [(SimpleNamespace(weight=weight, bias=each), None) for each in (bias, None)]
    maps = [(SimpleNamespace(sources=lambda: [affine]), None)]
    conditions = SimpleNamespace(affines=maps, operators=operators, nonnegative=[sign])
    known: Any = SimpleNamespace(sources=[slot], recipe=SimpleNamespace(conditions=conditions))
    assert {each.name for each in programs._sources(known)} == {"a", "w", "b", "s", "slot"}
    known.recipe = None
    assert list(programs._sources(known)) == [slot]


def test_what_is_packed() -> None:
    """Of several elements, in a dtype that oneDNN has; and where each stands."""
    each = made(FREEZES)
    arguments = each.function._arguments
    assert arguments.floats == arguments.parameters
    assert arguments.not_bound(arguments.parameters) == tuple(arguments.others.values())
    graph, examples = captured()
    odd = [value[:1] if value.dim() == 1 else value.double() for value in examples]
    assert not Arguments.of(graph, GraphInputs.of(graph, odd)).floats


@pytest.mark.parametrize(
    ("phase", "generation", "gone"), [("stop", 2, True), ("stop", 1, False), ("start", 2, False)]
)
def test_after_a_whole_collection(phase: str, generation: int, gone: bool) -> None:
    sets = FoldedSets()
    gc.disable()
    try:
        sets.publish(state([torch.zeros(3)]))
        folded._after_collection(phase, {"generation": generation})
        assert (sets.states == ()) == gone
    finally:
        gc.enable()


@pytest.mark.parametrize("positions", [(), (1,), (2, 0)])
def test_what_is_watched_is_picked(positions: tuple[int, ...]) -> None:
    assert programs._picker(positions)("xyz") == tuple("xyz"[at] for at in positions)
