"""Forms of one graph, and the bodies that are compiled from them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from folding import ENGINE, PACKS, PLAIN, Made, as_it_is, captured, fail, made

from bnfx.inner.base import Inner
from bnfx.passes.algebra import Source
from bnfx.passes.fx.dynamo import GraphInputs
from bnfx.passes.fx.rewrite import rewrite_captured
from bnfx.weights import programs
from bnfx.weights.body import MAX_LATE_BODIES, Program
from bnfx.weights.ways import PlainBody, always


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


def test_a_form_that_is_right_is_not_written_again() -> None:
    """The rules run once, and not after each step of an optimizer."""
    each = compiled()
    each.function._programs._refold = fail(ValueError("the rules ran"))
    each.variances[0].mul_(2)
    assert each.is_right()
    assert each.state.program is each.function._programs.first


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


def test_sources_that_are_no_parameters_are_not_watched() -> None:
    """Numbers and what the graph computes have names, too."""
    each = compiled()
    name, at = next(iter(each.function._arguments.parameters.items()))
    sources = [Source(each, (), "float64") for each in ("a number", name, "computed")]
    conditions = SimpleNamespace(affines=[], operators=[], nonnegative=[])
    recipe = SimpleNamespace(conditions=conditions)
    known: Any = SimpleNamespace(sources=sources, recipe=recipe)
    assert each.function._programs._read_by(known) == (at,)


@pytest.mark.parametrize("positions", [(), (1,), (2, 0)])
def test_what_is_watched_is_picked(positions: tuple[int, ...]) -> None:
    assert programs._picker(positions)("xyz") == tuple("xyz"[at] for at in positions)
