"""One captured graph, folded and compiled: constants while nothing changes, right when it does.

Two bodies stand behind a folded graph:

- *frozen*: weights are constants, so that Inductor can prepack them. It serves one set of
  parameters, as long as a :class:`~bnfx.weights.Snapshot` says that nothing was written to them.
- *live*: folded weights are inputs. It serves every set of parameters (in Dynamo, two instances of
  a class share one compiled graph) at every value of them.

Where the values at hand must not be folded (a statistic became NaN), the original graph runs.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import RestartAnalysis
from torch._subclasses.fake_tensor import FakeTensor

from bnfx.inner import Compiled, Inner
from bnfx.passes.fx.aliasing import mutated_leaves
from bnfx.passes.fx.bind import bind
from bnfx.passes.fx.dynamo import GraphInputs, describe_slots, has_constant_output
from bnfx.passes.fx.rewrite import RewriteWarning, Rewritten
from bnfx.passes.fx.sources import PLAIN, memory
from bnfx.weights import Snapshot

log = logging.getLogger("bnfx")

# Sets of parameters whose folded weights are kept. More instances of one class than that, called in
# turn, are folded again each time: slow, and right.
MAX_PARAMETER_SETS = 8


@dataclass(frozen=True)
class _Moment:
    """Parameters as they were when something was derived from them."""

    snapshot: Snapshot
    scalars: tuple[float, ...]

    def holds(self, tensors: Sequence[torch.Tensor], scalars: tuple[float, ...]) -> bool:
        return self.scalars == scalars and self.snapshot.holds(tensors)


@dataclass(frozen=True)
class _Folded:
    """Folded weights and the moment that they belong to; ``None`` where folding was refused."""

    moment: _Moment
    weights: list[torch.Tensor] | None


@dataclass(frozen=True)
class _Frozen:
    """A body with constants, the positions of what it bound, and of what it still takes."""

    moment: _Moment
    bound: tuple[int, ...]
    taken: tuple[int, ...]
    run: Compiled


class FoldedFunction:
    """What Dynamo calls in place of the captured graph.

    Args:
        original: the captured graph.
        inputs: its placeholders.
        rewritten: its folded form, with the slots as extra placeholders at the end.
        refold: folds ``original`` anew, for other inputs of the same shapes.
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
        self._positions = inputs.positions
        self._module = rewritten.module
        self._slots = rewritten.slots
        self._refold = refold
        self._inner = inner
        # Positions only: the tensors of this moment are not to be kept alive.
        self._parameters = {name: inputs.positions[name] for name in inputs.parameters}
        self._scalars = {name: inputs.positions[name] for name in inputs.scalars}
        self._others = {name: inputs.positions[name] for name in inputs.others}
        sources = (source.name for source in rewritten.sources)
        self._sources = [self._parameters[name] for name in sources if name in self._parameters]
        leaves = mutated_leaves(original.graph, original)
        written = {leaf.name for leaf in leaves if leaf.op == "placeholder"}
        # Written to: no constant, or an input whose aliases only a traced graph can guard.
        self._freezable = not written
        self._written = [inputs.positions[name] for name in inputs.others if name in written]
        self._lock = threading.Lock()
        self._folded: list[_Folded] = []
        self._frozen: _Frozen | None = None
        self._live: Compiled | None = None
        self._unfolded: Compiled | None = None
        self._shapes: list[torch.Tensor] | None = None

    def compile(
        self, example_inputs: Sequence[Any], weights: list[torch.Tensor] | None, freeze: bool
    ) -> None:
        """Compile one body now, inside Dynamo's tracing context, which knows dynamic shapes.

        Args:
            example_inputs: of the captured graph.
            weights: the folded weights for them; ``None`` if they are not known yet.
            freeze: whether to try the frozen body; the live one is compiled where that fails.
        """
        if weights is not None:
            moment = self._moment(example_inputs, self._sources)
            self._folded = [_Folded(moment, weights)]
            if freeze and self._inner.freeze is not None:
                self._frozen = self._freeze(example_inputs, weights)
        if self._frozen is None:
            extra = describe_slots(self._module, self._slots, weights, example_inputs)
            self._live = self._inner.compile(self._module, [*example_inputs, *extra])
            self._shapes = extra if weights is None else None

    def __call__(self, *args: Any) -> Any:
        frozen = self._frozen
        if frozen is not None:
            tensors = [args[position] for position in frozen.bound]
            if frozen.moment.holds(tensors, self._scalar_values(args)):
                return frozen.run(*[args[position] for position in frozen.taken])
            if frozen.moment.snapshot.is_of(tensors):
                self._frozen = None  # overwritten: it can never serve again
        if self._shapes is not None:
            # DDP's graph splitter compiles with fake parameters, then calls the body once to learn
            # the strides of its outputs; real calls come after that.
            if any(isinstance(args[position], FakeTensor) for position in self._sources):
                assert self._live is not None
                return self._live(*args, *self._shapes)
            self._shapes = None
        weights = None if self._writes_to_a_source(args) else self._weights_for(args)
        if weights is None:
            if self._unfolded is None:
                self._unfolded = self._compile_late(self._original)
            return self._unfolded(*args)
        if self._live is None:
            self._live = self._compile_late(self._module)
        return self._live(*args, *weights)

    def _writes_to_a_source(self, args: Sequence[Any]) -> bool:
        """Whether an input that the graph writes to shares memory with a folded parameter."""
        if not self._written:
            return False
        sources = {memory(args[position]) for position in self._sources}
        return any(memory(args[position]) in sources for position in self._written)

    def _weights_for(self, args: Sequence[Any]) -> list[torch.Tensor] | None:
        """The folded weights for these arguments; ``None`` where they must not be folded."""
        tensors = [args[position] for position in self._sources]
        scalars = self._scalar_values(args)
        for folded in self._folded:
            if folded.moment.holds(tensors, scalars):
                return folded.weights
        with self._lock:
            # The moment is taken first: a write during the fold then shows at the next call.
            fresh = _Folded(self._moment(args, self._sources), self._evaluate(args))
            others = [
                folded
                for folded in self._folded
                if not (folded.moment.scalars == scalars and folded.moment.snapshot.is_of(tensors))
            ]
            self._folded = [fresh, *others][:MAX_PARAMETER_SETS]
        return fresh.weights

    def _evaluate(self, args: Sequence[Any]) -> list[torch.Tensor] | None:
        """Fold anew. What may be folded depends on the values, so the rules run again."""
        groups = (self._parameters, self._scalars, self._others)
        tensors = ({name: args[at] for name, at in group.items()} for group in groups)
        rewritten = self._refold(GraphInputs(self._positions, *tensors))
        # Which way a map could go may depend on numbers (signs), so both must be what was compiled.
        if rewritten.slots == self._slots and rewritten.module.code == self._module.code:
            return rewritten.evaluate()
        log.warning("bnfx: the new parameters cannot be folded; the original graph is used")
        return None

    def _moment(self, args: Sequence[Any], positions: Sequence[int]) -> _Moment:
        return _Moment(Snapshot([args[at] for at in positions]), self._scalar_values(args))

    def _scalar_values(self, args: Sequence[Any]) -> tuple[float, ...]:
        return tuple(float(args[position]) for position in self._scalars.values())

    def _freeze(self, example_inputs: Sequence[Any], weights: list[torch.Tensor]) -> _Frozen | None:
        """The frozen body, or ``None`` where weights are no constants or cannot be prepacked."""
        assert self._inner.freeze is not None
        tensors = {name: example_inputs[at] for name, at in self._parameters.items()}
        if not self._freezable:
            return None
        if has_constant_output(self._original, tensors):
            return None  # the caller would be handed the constant itself, and may write to it
        for tensor in tensors.values():
            if type(tensor) not in PLAIN or tensor.layout != torch.strided or tensor.is_complex():
                return None  # nothing that a snapshot could vouch for
            if tensor.dtype == torch.float64:
                return None  # oneDNN has no float64, and Inductor fails to prepack it
        folded = {slot.name: weight for slot, weight in zip(self._slots, weights, strict=True)}
        bound = tuple(self._parameters.values())
        taken = tuple(at for at in range(len(example_inputs)) if at not in set(bound))
        moment = self._moment(example_inputs, bound)
        try:
            module = bind(self._module, {**tensors, **folded})
            run = self._inner.freeze(module, [example_inputs[position] for position in taken])
        except RestartAnalysis:
            raise  # Dynamo traces once more, with what the compiler learnt, and comes back
        except Exception as error:
            message = f"bnfx: freezing failed, folded weights stay inputs: {error!r}"
            warnings.warn(message, RewriteWarning, stacklevel=2)
            log.warning(message, exc_info=True)
            return None
        return _Frozen(moment, bound, taken, run)

    def _compile_late(self, module: fx.GraphModule) -> Compiled:
        """Compile after Dynamo is done with the graph: traced again, with guards of its own."""

        def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
            return self._inner.compile(graph, example_inputs)

        # Code that Dynamo met while disabled, as it is here, is never traced: make it new.
        module.recompile()
        compiled: Compiled = torch.compile(module, backend=backend)
        return compiled
