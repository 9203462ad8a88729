"""One captured graph, folded and compiled: right whatever is written to its parameters.

Each call looks for the state of the very parameters that it is called with (in Dynamo, two
instances of a class share one compiled graph), and whether they are still as they were. If so, the
body runs; if not, the weights are filled anew first, into the form of the graph that is right for
them (:mod:`bnfx.weights.programs`); where nothing may be folded, the original graph runs.

A call runs on one complete set of folded weights (``docs/weights.md``: what threads are promised).
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from bnfx.inner.base import Compiled, Inner
from bnfx.passes.fx.dynamo import GraphInputs, describe_slots
from bnfx.passes.fx.rewrite import Rewritten
from bnfx.passes.report import RewriteWarning
from bnfx.torch_private import FakeTensor, RestartAnalysis
from bnfx.weights.arguments import Arguments
from bnfx.weights.body import Program, compile_late
from bnfx.weights.choice import described, forms
from bnfx.weights.freezing import Patience
from bnfx.weights.programs import Programs
from bnfx.weights.snapshot import Moment, Snapshot
from bnfx.weights.store import FoldedState, same_set

log = logging.getLogger("bnfx")

# Sets of parameters whose folded weights are kept. More instances of one class than that, called in
# turn, are folded again each time: slow, and right.
MAX_PARAMETER_SETS = 8
# Times that a set is folded because something was written while it was. After that it is used as it
# is, and folded anew by the next call.
MAX_FILLS = 3


class FoldedFunction:
    """What Dynamo calls in place of the captured graph.

    Args:
        original: the captured graph.
        inputs: its placeholders.
        rewritten: its folded form, with the slots as extra placeholders at the end.
        refold: rewrites ``original`` anew for other inputs of the same shapes, never by signs.
        inner: the inner compiler.
    """

    def __init__(
        self,
        original: fx.GraphModule,
        inputs: GraphInputs,
        rewritten: Rewritten,
        refold: Callable[[GraphInputs], Rewritten],
        inner: Inner,
    ) -> None:
        self._original = original
        self._arguments = Arguments.of(original, inputs)
        self._inner = inner
        parameters = self._arguments.parameters
        names = dict.fromkeys(source.name for source in rewritten.sources)
        self._sources = [parameters[name] for name in names if name in parameters]
        self._watched = self._sources
        self._programs = Programs(rewritten, self._arguments, inner, refold)
        self._lock = threading.Lock()
        self._states: tuple[FoldedState, ...] = ()
        self._patience: Patience | None = None
        self._unfolded: Compiled | None = None
        self._shapes: list[torch.Tensor] | None = None

    def compile(
        self, example_inputs: Sequence[Any], weights: list[torch.Tensor] | None, wanted: str
    ) -> tuple[str, str]:
        """Compile one body now, inside Dynamo's tracing context.

        Args:
            example_inputs: of the captured graph.
            weights: the folded weights for them; ``None`` if they are not known yet.
            wanted: ``"live"``, ``"frozen"`` or ``"auto"``.

        Returns:
            The form that serves from now on, ``"live"`` or ``"frozen"``, and why.
        """
        program, why = self._programs.first, list[str]()
        if weights is None:
            extra = describe_slots(program.module, program.slots, None, example_inputs)
            program.compile(example_inputs, extra)
            self._shapes = extra
            return "live", "its parameters had no numbers yet when it was compiled"
        for form in forms(wanted, self._arguments.refusal, self._inner, why):
            try:
                self._compile_as(form, program, example_inputs, weights)
            except RestartAnalysis:
                raise  # Dynamo traces once more, with what the compiler learnt, and comes back
            except Exception as error:
                if form == "plain":
                    raise
                self._watched, self._programs.packs = self._sources, False
                what = "packing" if form == "packed" else "freezing"
                why.append(f"{what} failed: {error}".splitlines()[0])
                log.info("bnfx: %s failed", what, exc_info=True)
                if form == "frozen":
                    message = f"bnfx: freezing failed, folded weights stay inputs: {error!r}"
                    warnings.warn(message, RewriteWarning, stacklevel=2)
                continue
            return described(form, why)
        raise AssertionError("the plain form compiles or raises")

    def _compile_as(
        self,
        form: str,
        program: Program,
        example_inputs: Sequence[Any],
        weights: list[torch.Tensor],
    ) -> None:
        packs = form != "plain" and self._inner.pack is not None
        self._programs.packs = program.packs = packs
        if form != "plain":
            # Constants hold what was not folded, too.
            self._watched = list(self._arguments.parameters.values())
        state = FoldedState(self._moment(example_inputs))
        if form == "packed":
            program.pack(example_inputs, weights)
            state.fill(state.moment, program, [], program.constants(example_inputs, weights))
        elif form == "frozen":
            state.frozen = program.freeze(example_inputs, weights)
            self._patience = Patience()
        else:
            extra = describe_slots(program.module, program.slots, weights, example_inputs)
            program.compile(example_inputs, extra)
            state.fill(state.moment, program, weights, {})
        self._states = (state,)

    def __call__(self, *args: Any) -> Any:
        if self._shapes is not None:
            # DDP's graph splitter compiles with fake parameters, then calls the body once to learn
            # the strides of its outputs; real calls come after that.
            if any(isinstance(args[position], FakeTensor) for position in self._sources):
                return self._programs.first.run_plain(args, self._shapes)
            self._shapes = None
        if self._arguments.writes_to(args, self._sources):
            return self._run_original(args)
        tensors = [args[position] for position in self._watched]
        scalars = self._arguments.scalar_values(args)
        state = same_set(self._states, tensors, scalars)
        if state is not None:
            with state.gate:
                if state.moment.holds(tensors, scalars):
                    return self._run(state, args)
        state = self._renew(tensors, scalars, args)
        with state.gate:
            return self._run(state, args)

    def _run(self, state: FoldedState, args: Sequence[Any]) -> Any:
        if state.frozen is not None:
            return state.frozen(args)
        if state.program is None:
            return self._run_original(args)
        if self._patience is not None:
            state.quiet += 1
            if self._patience.take(state.quiet):
                return self._freeze_again(state, args)
        return state.program(args, state)

    def _run_original(self, args: Sequence[Any]) -> Any:
        if self._unfolded is None:
            self._unfolded = compile_late(self._original, self._inner)
        return self._unfolded(*args)

    def _renew(
        self, tensors: Sequence[torch.Tensor], scalars: tuple[float, ...], args: Sequence[Any]
    ) -> FoldedState:
        """Fold these parameters anew."""
        with self._lock:
            state = same_set(self._states, tensors, scalars)
            if state is not None and state.moment.holds(tensors, scalars):
                return state  # another thread did
            for _ in range(MAX_FILLS):
                # The moment is taken first: a write during the fold shows.
                moment = self._moment(args)
                program, weights = self._programs.fill(args)
                if moment.holds(tensors, scalars):
                    break
            constants = {}
            if program is not None and program.packs:
                constants, weights = program.constants(args, weights), []
            fresh = FoldedState(moment) if state is None else state
            fresh.fill(moment, program, weights, constants)
            if state is None:
                self._states = (fresh, *self._states)[:MAX_PARAMETER_SETS]
        return fresh

    def _freeze_again(self, state: FoldedState, args: Sequence[Any]) -> Any:
        """Freeze weights that have settled, and answer with them."""
        assert state.program is not None and self._patience is not None
        try:
            frozen = state.program.freeze_late(args, state.program.fill(args))
            answer = frozen(args)  # compiles
        except Exception as error:
            self._patience.give_up()
            log.warning("bnfx: freezing failed, folded weights stay inputs: %r", error)
            return state.program(args, state)
        state.frozen = frozen
        return answer

    def _moment(self, args: Sequence[Any]) -> Moment:
        snapshot = Snapshot([args[at] for at in self._watched])
        return Moment(snapshot, self._arguments.scalar_values(args))
