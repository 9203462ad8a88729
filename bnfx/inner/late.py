"""Compiles a captured graph after Dynamo is done with it, and without Dynamo.

Dynamo may decline to compile (a stance, its recompile limit, ``config.disable``), and another
thread may be compiling. Neither is to change what is computed, so the captured graph goes straight
to the inner compiler. Sizes that Dynamo captured as symbols are symbols again, with guards of their
own, which each call is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.lowering.bind import bind
from bnfx.torch_private import (
    ConstantSource,
    DimDynamic,
    FakeTensorMode,
    ShapeEnv,
    StatelessSymbolicContext,
    TracingContext,
    tracing,
)


@dataclass(frozen=True)
class LateInputs:
    """Example inputs for one late compilation, and what they say about other calls.

    Args:
        examples: what the inner compiler is given: tensors, and symbols for Python numbers.
        fakes: what stands for them in graphs. The mode remembers them as long as they live.
        captured: what Dynamo knew each as.
        mode: of the fake tensors.
    """

    examples: Sequence[Any]
    fakes: Sequence[Any]
    captured: Sequence[Any]
    mode: FakeTensorMode

    @staticmethod
    def of(captured: Sequence[Any], args: Sequence[Any]) -> LateInputs:
        """LateInputs like ``args``.

        Args:
            captured: what Dynamo knew each argument as. What was a symbol there is one again;
                everything else is fixed, and Dynamo guards that it is.
        """
        env = ShapeEnv()
        mode = FakeTensorMode(shape_env=env)
        examples: list[Any] = []
        fakes: list[Any] = []
        for at, (known, value) in enumerate(zip(captured, args, strict=True)):
            source = ConstantSource(f"argument_{at}")
            if isinstance(value, torch.Tensor):
                # Not the caller's own, to which a fake mode would hold weak references; no view,
                # whose base would have symbolic sizes.
                value = value.data
                symbolic = [isinstance(size, torch.SymInt) for size in _shape(known, value)]
                context: Any = StatelessSymbolicContext(
                    [DimDynamic.DUCK if each else DimDynamic.STATIC for each in symbolic]
                )
                fake: Any = mode.from_tensor(value, source=source, symbolic_context=context)
            elif isinstance(known, torch.SymInt) and isinstance(value, int):
                symbol = env.create_symbol(value, source, dynamic_dim=DimDynamic.DUCK)
                fake = value = env.create_symintnode(symbol, hint=value, source=source)
            else:
                fake = value
            examples.append(value)
            fakes.append(fake)
        return LateInputs(examples, fakes, captured, mode)

    def context(self) -> AbstractContextManager[Any]:
        """As Dynamo would have it around a backend."""
        context: AbstractContextManager[Any] = tracing(TracingContext(self.mode))
        return context

    def guards(self) -> Callable[[Sequence[Any]], bool]:
        """Whether what was compiled for these inputs by now is right for other arguments."""
        env, symbolic, fixed = self.mode.shape_env, dict[int, Any](), list[_Fixed]()
        assert env is not None
        for at, (known, fake) in enumerate(zip(self.captured, self.fakes, strict=True)):
            if isinstance(known, torch.SymInt):
                if (value := _number(fake)) is not None:
                    fixed.append((at, None, value))
                else:
                    symbolic[at] = fake
            elif isinstance(known, torch.Tensor) and isinstance(fake, torch.Tensor):
                there = [*known.shape, *known.stride()]
                here = [*fake.shape, *fake.stride()]
                if any(isinstance(size, torch.SymInt) for size in there):
                    symbolic[at] = fake
                    for index, (was, now) in enumerate(zip(there, here, strict=True)):
                        if isinstance(was, torch.SymInt) and (value := _number(now)) is not None:
                            fixed.append((at, index, value))
        if not symbolic and not fixed:
            return lambda args: True
        positions = list(symbolic)
        code = env.produce_guards_expression(list(symbolic.values()))

        def fit(args: Sequence[Any]) -> bool:
            if any(_read(args[at], index) != value for at, index, value in fixed):
                return False
            given = [args[at] for at in positions]
            return code is None or bool(env.evaluate_guards_expression(code, given))

        return fit


# Of what was a symbol and is a number by now: which argument, which of its sizes and strides
# (``None``: the argument itself is meant), and the number.
_Fixed = tuple[int, int | None, Any]


def _number(value: Any) -> Any:
    return value.node.maybe_as_int() if isinstance(value, torch.SymInt) else value


def _read(value: Any, index: int | None) -> Any:
    return value if index is None else (*value.shape, *value.stride())[index]


def _shape(known: Any, value: torch.Tensor) -> Sequence[Any]:
    if isinstance(known, torch.Tensor) and known.dim() == value.dim():
        return known.shape
    return value.shape


def captured_as(module: fx.GraphModule) -> list[Any]:
    """What Dynamo knew each input of ``module`` as; ``None`` where it did not say."""
    return [node.meta.get("example_value") for node in module.graph.find_nodes(op="placeholder")]


def fresh(
    module: fx.GraphModule, inputs: LateInputs, tensors: Mapping[str, torch.Tensor] | None = None
) -> fx.GraphModule:
    """A copy for a compiler to keep: it may write to it, and what Dynamo knew of sizes is over.

    Args:
        tensors: placeholders to bind; ``inputs`` are for the others.
    """
    copied = bind(module, tensors or {})
    for node in copied.graph.nodes:
        node.meta.pop("example_value", None)
    placeholders = copied.graph.find_nodes(op="placeholder")
    for node, fake in zip(placeholders, inputs.fakes, strict=True):
        node.meta["example_value"] = fake
    return copied
