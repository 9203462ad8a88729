"""Which modules follow one another in a call with the example: watched, not proved."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bnfx.folding.given import ExampleInputs, copied
from bnfx.folding.modules.succession import Pair
from bnfx.folding.modules.tree import is_scripted, modules_of
from bnfx.folding.verify import answer_to


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Who gives each tensor, who is given it, and in which calls ops read it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[int] = []  # that run now, by their numbers
        self.paths: list[str] = []  # of the module of each call
        self.makers: dict[int, int] = {}  # id of a tensor -> the first call that gave it
        self.takers: defaultdict[int, list[int]] = defaultdict(list)
        self.readers: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        self.kept: dict[int, torch.Tensor] = {}  # else ids could be used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self.readers[id(tensor)].append(tuple(self.calls))
        return func(*args, **(kwargs or {}))

    def watch(self, path: str, module: nn.Module) -> None:
        """Note each of its calls."""

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls.append(len(self.paths))
            self.paths.append(path)
            if len(args) == 1 and not kwargs:
                self.takers[id(args[0])].append(self.calls[-1])

        def end(_: nn.Module, args: Any, output: Any) -> None:
            call = self.calls.pop()
            if isinstance(output, torch.Tensor) and id(output) not in self.kept:
                self.kept[id(output)] = output
                self.makers[id(output)] = call
                # Before, this was the id of others, or it was read in the making.
                self.readers.pop(id(output), None)
                self.takers.pop(id(output), None)

        module.register_forward_pre_hook(begin, with_kwargs=True)
        module.register_forward_hook(end)

    def held(self) -> set[int]:
        """Ids of the tensors that somebody still holds."""
        alone = {0: object()}
        most = sys.getrefcount(alone[0])
        return {key for key in self.kept if sys.getrefcount(self.kept[key]) > most}

    def taker(self, tensor: int) -> int | None:
        """The innermost call that was given a tensor, and in which all of it is read."""
        readers = self.readers[tensor]
        inside = [t for t in self.takers[tensor] if all(t in calls for calls in readers)]
        return max(inside, default=None)


def seen_pairs(model: nn.Module, inputs: ExampleInputs) -> list[Pair]:
    """Modules of which one is given what the other gives, in all calls of both, and nobody else
    reads or keeps it.
    """
    model, watch = copied(model), _Watch()
    for path, module in modules_of(model):
        if path and not is_scripted(module):  # which takes no hooks
            watch.watch(path, module)
    args, kwargs = inputs.copied()
    with watch:
        outputs = answer_to(model, args, kwargs)
    held = watch.held()
    del outputs
    after: defaultdict[str, set[str]] = defaultdict(set)
    before: defaultdict[str, set[str]] = defaultdict(set)
    paired: set[int] = set()
    for tensor, maker in watch.makers.items():
        taker = None if tensor in held else watch.taker(tensor)
        first = watch.paths[maker]
        if taker is None:
            after[first].add("")
        else:
            after[first].add(watch.paths[taker])
            before[watch.paths[taker]].add(first)
            paired.add(taker)
    for call, path in enumerate(watch.paths):
        if call not in paired:
            before[path].add("")
    return [
        Pair(first, second)
        for first, (second, *others) in ((a, sorted(b)) for a, b in after.items())
        if not others and before[second] == {first}
    ]
