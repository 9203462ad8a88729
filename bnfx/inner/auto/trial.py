"""Tries the installed engines on a graph: each is checked, and the fastest that is right serves."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from bnfx.errors import OptionError
from bnfx.inner.auto import choices
from bnfx.inner.base import (
    ENGINES,
    KEPT,
    Compiled,
    EngineRefusal,
    Inner,
    has_fixed_layout,
    packages_missing,
)
from bnfx.inner.engines.as_inner import first_line, sized
from bnfx.inner.engines.served import Served
from bnfx.options import nearest
from bnfx.torch_private import FakeTensor

log = logging.getLogger("bnfx")

# What a trial takes: in each of these rounds so many calls of each engine, one after the other, as
# far as they fit into the seconds; at least some.
ROUNDS, CALLS, SECONDS, AT_LEAST = 3, 6, 0.4, 2
# Seconds between two engines: the threads of one spin for a while after its call, and would slow
# the next one down.
REST = 0.03
PYTORCH = "PyTorch"


def installed() -> tuple[str, ...]:
    """The engines that are here."""
    return tuple(name for name in ENGINES if not packages_missing(name))


def inner(given: Mapping[str, Any], fallback: Inner) -> Inner:
    """The inner compiler.

    Args:
        given: the name of an engine -> its options.
        fallback: has the graphs that no engine takes, or where PyTorch itself is faster than any.

    Raises:
        OptionError: for an engine that bnfx does not know, or an option that it does not have.
    """
    for name, options in given.items():
        if name not in ENGINES:
            raise OptionError(f"inner='auto' knows no engine {name!r}{nearest(name, [*ENGINES])}")
        if not isinstance(options, Mapping):
            raise OptionError(f"the options of {name} must be a dict, not {options!r}")
    engines = {
        name: importlib.import_module(f"bnfx.inner.{name}").inner(given.get(name, {}), fallback)
        for name in installed()
    }
    if not engines:
        why = f"no engine is installed ({', '.join(ENGINES)}): see bnfx doctor"
        return dataclasses.replace(fallback, notes=(why,))
    notes = list[str]()

    def freeze(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        with _disable_current_modes():
            trial = _Trial(module, example_inputs, engines, repr(sorted(given.items())))
            kept = module.meta.get(KEPT, {})
            chosen = kept.get("engine")  # for other weights of this graph
            if chosen is not None:
                return trial.built(chosen)
            try:
                found, note = trial.fastest()
            except EngineRefusal as refusal:
                notes.append(str(refusal))
                raise
            notes.append(note)
            kept["engine"] = found
            if found == PYTORCH:
                raise EngineRefusal(note, quiet=True)
            return trial.built(found)

    return dataclasses.replace(
        fallback,
        freeze=freeze,
        pack=None,
        unpackable="engines take weights as constants",
        is_inductor=False,
        fallback=fallback,
        notes=notes,
    )


class _Trial:
    """One graph, and the engines built for it so far."""

    def __init__(
        self,
        module: fx.GraphModule,
        example_inputs: Sequence[Any],
        engines: Mapping[str, Inner],
        given: str,
    ) -> None:
        self._module = module
        self._examples = example_inputs
        self._engines = engines
        self._given = given
        self._built: dict[str, Served] = {}

    def built(self, name: str) -> Served:
        if name not in self._built:
            freeze = self._engines[name].freeze
            assert freeze is not None
            served = freeze(self._module, self._examples)
            assert isinstance(served, Served)
            self._built[name] = served
        return self._built[name]

    def fastest(self) -> tuple[str, str]:
        """The engine, or :data:`PYTORCH`; and how it was found, in a sentence."""
        examples = [_example(value) for value in self._examples]
        key = choices.key_of(self._module, examples, self._given)
        known = choices.read(key)
        if known and next(iter(known)) in (*self._engines, PYTORCH):
            return next(iter(known)), f"engine by an earlier trial: {_described(known)}"
        refusals = list[str]()
        for name in self._engines:
            try:
                self.built(name).verify(examples)
            except Exception as refusal:
                self._built.pop(name, None)
                refusals.append(first_line(refusal))
                log.info("bnfx: %s is not tried", name, exc_info=True)
        if not self._built:
            raise EngineRefusal("no engine takes the graph: " + "; ".join(refusals), quiet=True)
        times = _times({**self._built, PYTORCH: _in_pytorch(self._module)}, examples)
        note = f"engine by trial: {_described(times)}"
        if is_busy():
            note += " (not kept for other processes, as the machine is busy)"
        else:
            choices.write(key, times)
        return next(iter(times)), "; ".join([note, *refusals])


def is_busy() -> bool:
    """Whether more waits than there are cores, on average of the last minute; false where nobody
    counts.
    """
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return False


def _times(ways: Mapping[str, Callable[..., Any]], examples: Sequence[Any]) -> dict[str, float]:
    """Median milliseconds of each, by itself; the fastest first."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            time.sleep(REST)
            way(*examples)  # warms up
            began = time.perf_counter()
            for call in range(CALLS):
                start = time.perf_counter()
                if call >= AT_LEAST and start - began > SECONDS:
                    break
                way(*examples)
                times[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(own) for name, own in times.items()}
    return dict(sorted(medians.items(), key=lambda item: item[1]))


def _described(times: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items())


def _in_pytorch(module: fx.GraphModule) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with torch.no_grad():
            return module(*args)

    return run


def _example(value: Any) -> Any:
    """What Dynamo gave, or numbers of that shape where it gave none."""
    real = isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
    if real and has_fixed_layout(value):
        return value.detach()
    made = sized(value)
    if isinstance(made, torch.Tensor):
        return made.normal_() if made.is_floating_point() else made.zero_()
    return made
