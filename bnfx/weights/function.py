"""One captured graph, folded and compiled: right whatever is written to its parameters.

Each call looks for the state of the very parameters that it is called with (in Dynamo, two
instances of a class share one compiled graph), and whether they are still as they were. If so, that
state answers; if not, another one is made first, by the form of the graph that is right for the
numbers (:mod:`bnfx.weights.programs`); where nothing may be folded, that is the original graph.

A state never changes and is published whole, so a call runs on one complete set of folded weights,
and whatever interrupts the making of a state leaves nothing behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import Compiled, EngineRefusal, Inner
from bnfx.inner.locks import Lock
from bnfx.inner.unsaved import Unsaved
from bnfx.passes.fx.dynamo import GraphInputs, describe_slots
from bnfx.passes.fx.rewrite import Rewritten
from bnfx.passes.pipeline import warn_of_failure
from bnfx.passes.report import RewriteWarning
from bnfx.passes.user_warnings import warn
from bnfx.torch_private import FakeTensor, RestartAnalysis
from bnfx.weights.arguments import Arguments
from bnfx.weights.changes.snapshot import Numbers
from bnfx.weights.choice import described, forms
from bnfx.weights.folded import FoldedSets, FoldedState
from bnfx.weights.freezing import Budget, Patience
from bnfx.weights.programs import Programs

log = logging.getLogger("bnfx")


@dataclass(frozen=True, eq=False)
class _Folded:
    """A state, and what it was made of; ``None`` where it was there before."""

    state: FoldedState
    numbers: Numbers | None = None
    weights: Sequence[torch.Tensor] = ()


class FoldedFunction(Unsaved):
    """What Dynamo calls in place of the captured graph.

    Args:
        original: the captured graph.
        inputs: its placeholders.
        rewritten: its folded form, with the slots as extra placeholders at the end.
        refold: rewrites ``original`` anew for other inputs of the same shapes, never by signs.
        inner: the inner compiler.
        check: how content on other devices than the CPU is compared: the option ``check``.
    """

    def __init__(
        self,
        original: fx.GraphModule,
        inputs: GraphInputs,
        rewritten: Rewritten,
        refold: Callable[[GraphInputs], Rewritten],
        inner: Inner,
        check: str = "content",
    ) -> None:
        self._check = check
        self._arguments = Arguments.of(original, inputs)
        self._inner = inner
        self._programs = Programs(original, rewritten, self._arguments, inner, refold)
        self._lock = Lock()
        self._sets = FoldedSets()
        self._patience: Patience | Budget | None = None
        self._without_numbers: tuple[Compiled, list[torch.Tensor]] | None = None

    def compile(
        self, example_inputs: Sequence[Any], has_numbers: bool, wanted: str
    ) -> tuple[str, str]:
        """Compile one body now, inside Dynamo's tracing context.

        Args:
            example_inputs: of the captured graph.
            has_numbers: whether its parameters are real.
            wanted: ``"live"``, ``"frozen"`` or ``"auto"``.

        Returns:
            The form that serves from now on, ``"live"`` or ``"frozen"``, and why.

        Raises:
            EngineRefusal: if the inner compiler is an engine that does not take the graph.
        """
        program, why = self._programs.first, list[str]()
        if not has_numbers:
            program.weight_layout = torch.Tensor.contiguous  # as the examples are laid out
            extra = describe_slots(program.module, program.slots, None, example_inputs)
            self._without_numbers = program.compile(example_inputs, extra), extra
            return "live", "its parameters had no numbers yet when it was compiled"
        watched = self._programs.watched
        for form in forms(wanted, self._arguments.refusal, self._inner, why):
            try:
                self._compile_as(form, example_inputs)
            except (RestartAnalysis, EngineRefusal):
                raise  # Dynamo traces once more, with what the compiler learnt; or see the caller
            except Exception as error:
                if form == "plain":
                    raise
                self._programs.watched = watched
                what = "packing" if form == "packed" else "freezing"
                why.append(f"{what} failed: {error}".splitlines()[0])
                log.info("bnfx: %s failed", what, exc_info=True)
                if form == "frozen":
                    message = f"bnfx: freezing failed, folded weights stay inputs: {error!r}"
                    warn(message, RewriteWarning)
                continue
            return described(form, why)
        raise AssertionError("the plain form compiles or raises")

    def _compile_as(self, form: str, example_inputs: Sequence[Any]) -> None:
        program = self._programs.first
        self._programs.packs = program.packs = form != "plain" and self._inner.pack is not None
        if form != "plain":
            self._programs.watch_all()  # constants hold what was not folded, too
        numbers = self._read(example_inputs)
        weights = program.fill(numbers)
        if weights is None:
            raise RuntimeError("the parameters were written to while they were folded")
        if form == "frozen":
            way = program.freeze(example_inputs, numbers, weights)
            self._patience = Patience() if self._inner.fallback is None else Budget()
            self._sets.publish(FoldedState(numbers.moment, program, (way,), frozen=True))
            return
        if form == "packed":
            program.pack(example_inputs, numbers, weights)
        else:
            extra = describe_slots(program.module, program.slots, weights, example_inputs)
            program.compile(example_inputs, extra)
        ways = program.ways(numbers, weights)
        self._sets.publish(FoldedState(numbers.moment, program, ways))

    def __call__(self, *args: Any) -> Any:
        early = self._without_numbers  # read once: another thread may be done with it
        if early is not None:
            # DDP's graph splitter compiles with fake parameters, then calls the body once to learn
            # the strides of its outputs; real calls come after that.
            run, extra = early
            if any(isinstance(args[at], FakeTensor) for at in self._programs.watched):
                return run(*args, *extra)
            self._without_numbers = None
        if self._arguments.writes_to(args, self._programs.watched):
            # Compiled code may not ask which of them share memory, which changes from call to call.
            return self._programs.original.module.forward(*args)
        state, original = self._current(args) or self._renew(args), self._programs.original
        if self._patience is not None and not state.frozen and state.program is not original:
            state.quiet.calls += 1
            if self._patience.take(state.quiet):
                if isinstance(self._patience, Budget):
                    self._patience.build(lambda: self._freeze_again(state, args))
                else:
                    state = self._freeze_again(state, args)
        way = state.way(args)
        assert way is not None, "a state is chosen by whether it can answer"
        return way.run(args)

    def _current(self, args: Sequence[Any]) -> FoldedState | None:
        """The state that is right for these arguments as they are, if there is one."""
        tensors = self._programs.watched_of(args)
        scalars = self._arguments.scalar_values(args)
        state = self._sets.of(tensors, scalars)
        if state is None or not state.moment.still_holds(tensors) or state.way(args) is None:
            return None
        return state

    def _renew(self, args: Sequence[Any]) -> FoldedState:
        """Fold these parameters anew. Once for all threads; what is missing is compiled."""
        folded = self._lock.run(lambda: self._fold(args))
        state, program = folded.state, folded.state.program
        if state.way(args) is not None:
            return state
        assert folded.numbers is not None
        program.compile_late(folded.numbers, folded.weights)
        state = replace(state, ways=program.ways(folded.numbers, folded.weights))

        def publish() -> None:
            if self._current(args) is None:
                self._sets.publish(state)

        self._lock.run(publish)
        return state

    def _fold(self, args: Sequence[Any]) -> _Folded:
        current = self._current(args)  # another thread may have made it meanwhile
        if current is not None:
            return _Folded(current)
        try:
            filled = None
            while filled is None:
                numbers = self._read(args)
                filled = self._programs.fill(args, numbers)
            program, weights = filled
            ways = program.ways(numbers, weights)
        except Exception as error:
            warn_of_failure(error, "folding anew", "graph")
            program, weights = self._programs.original, []
            numbers = self._read(args)
            ways = program.ways(numbers, weights)
        state = FoldedState(numbers.moment, program, ways)
        if state.way(args) is not None:
            self._sets.publish(state)
        return _Folded(state, numbers, weights)

    def _read(self, args: Sequence[Any]) -> Numbers:
        watched, scalars = self._programs.watched, self._arguments.scalar_values(args)
        return Numbers.of(args, watched, scalars, self._check)

    def _freeze_again(self, state: FoldedState, args: Sequence[Any]) -> FoldedState:
        """Freeze weights that have settled."""
        try:
            numbers = self._read(args)
            weights = state.program.fill(numbers)
            if weights is None or not numbers.moment.settled:
                state.quiet.frozen = False
                return state  # something was written; the next call sees to it
            way = state.program.freeze_late(numbers, weights)
        except Exception as error:
            if isinstance(self._patience, Patience):
                self._patience.give_up()
            level = logging.INFO if getattr(error, "quiet", False) else logging.WARNING
            log.log(level, "bnfx: freezing failed, folded weights stay inputs: %r", error)
            return state
        ways = (way, *state.program.ways(numbers, weights))  # all of one moment
        frozen = replace(state, moment=numbers.moment, ways=ways, frozen=True)
        self._lock.run(lambda: self._sets.publish(frozen) if state in self._sets.states else None)
        return frozen
