"""A part of a compiled model that is called by itself, and layers in threads; see test_outside.py.

Such a part is the user's untouched module: there is no compiled call around it.
"""

from __future__ import annotations

import copy
import gc
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import fail_on_warnings
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import bnfx
from sync.cases_outside import Own, compiled, layers
from sync.training import assert_alike, images, make, sizes, train, train_alone


def by_parts(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What ``Own.forward`` does, from outside of the model."""

    def run(x: torch.Tensor) -> torch.Tensor:
        x = model.stem(x)
        return model.head(model.left(x) + model.right(x))

    return run


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="bnfx", options={"inner": "eager", "sync": "require"})
    return model


def compiled_forward(model: nn.Module) -> nn.Module:
    model.forward = compiled(model.forward)
    return model


def check(wrap: Callable[[nn.Module], Any], shared: bool = True) -> None:
    """Two steps by what ``wrap`` returns: of the whole batch, or of this rank's alone."""
    model, batches = make(Own), images(sizes())
    rank = dist.get_rank()
    expected = train_alone(model, batches if shared else [batches[rank]], 1)
    run = wrap(model)
    if shared:
        train(run, model, batches[rank], 1)
        assert_alike(model, expected)
        return
    run(batches[rank])
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def case_parts_of_what_was_compiled() -> None:
    held: list[Any] = []  # a model is compiled for as long as its compiled form exists

    def keep(compiled_model: Any) -> Any:
        held.append(compiled_model)
        return compiled_model

    check(lambda model: by_parts(compiled(model)))
    check(lambda model: by_parts(compiled_in_place(model)))
    check(lambda model: by_parts(compiled_forward(model)))
    check(lambda model: by_parts(DistributedDataParallel(compiled(model)).module))
    check(lambda model: by_parts(keep(compiled(DistributedDataParallel(model))).module))
    check(lambda model: by_parts(keep(compiled(nn.ModuleDict({"net": model}))).net))
    check(lambda model: keep(compiled(model))._orig_mod)
    check(lambda model: (keep(compiled(model)), model)[1])


def case_parts_and_the_whole_in_turn() -> None:
    model, batches = make(Own), images(sizes())
    expected = train_alone(model, batches, 4)
    whole = compiled(model)
    for run in (whole, by_parts(whole), whole, by_parts(model)):
        train(run, model, batches[dist.get_rank()], 1)
    assert_alike(model, expected)


def case_parts_of_a_copy() -> None:
    x, batches = images(sizes())[dist.get_rank()], images(sizes())
    first = compiled(make(Own))
    expected = train_alone(first._orig_mod, batches, 1)
    copied = copy.deepcopy(first)
    by_parts(copied)(x)
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(copied._orig_mod.get_buffer(name), buffer)


def case_a_part_that_is_computed_again() -> None:
    def wrap(model: nn.Module) -> Any:
        whole = compiled(model)

        def run(x: torch.Tensor) -> torch.Tensor:
            x = checkpoint(whole.stem, x, use_reentrant=False)
            return whole.head(whole.left(x) + whole.right(x))

        return run

    model, batches = make(Own), images(sizes())
    expected = train_alone(model, batches, 1)
    train(wrap(model), model, batches[dist.get_rank()], 1)
    for name, value in expected.state_dict().items():
        if "tracked" not in name:  # torch's own forward counts each time
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-10, atol=1e-10)


def case_parts_that_are_nobodys() -> None:
    """No compiled form, one that is gone, ``sync="off"``, or another backend's call around it."""
    other = compiled(make(Own))
    check(by_parts, shared=False)

    def gone(model: nn.Module) -> Any:
        compiled(model)
        gc.collect()
        return by_parts(model)

    check(gone, shared=False)
    check(lambda model: by_parts(compiled(model, sync="off")), shared=False)
    check(lambda model: by_parts(copy_of(compiled_in_place(copy.deepcopy(model)), model)), False)

    def within_another(model: nn.Module) -> Any:
        whole = compiled(model)
        return torch.compile(torch.compiler.disable(by_parts(whole)), backend="aot_eager")

    check(within_another, shared=False)
    assert other.training


def copy_of(compiled_model: nn.Module, model: nn.Module) -> nn.Module:
    """``model``, while a copy of it is compiled."""
    assert compiled_model._compiled_call_impl is not None
    return model


def case_a_part_that_came_later() -> None:
    """A layer that trained by itself, and is then made part of a model and compiled."""
    norm, x = nn.BatchNorm2d(3).double(), images(sizes())[dist.get_rank()]
    norm(x)
    norm.reset_running_stats()
    whole = compiled(nn.ModuleDict({"norm": norm}))
    expected = nn.BatchNorm2d(3).double()
    expected(torch.cat(images(sizes())))
    whole.norm(x)
    torch.testing.assert_close(norm.running_var, expected.running_var)


class Threaded(nn.Module):
    """Its branches run in threads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = layers(), layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with ThreadPoolExecutor(2) as pool:
            parts = [pool.submit(branch, x) for branch in (self.left, self.right)]
            return sum(part.result() for part in parts)  # type: ignore[return-value]


def case_layers_in_threads() -> None:
    """Ranks cannot agree on an order: it is said, and never mixed up."""
    x = images(sizes())[dist.get_rank()]
    model = make(Threaded)
    ways = (
        lambda sync: compiled(model, sync=sync),
        lambda sync: compiled(lambda x: model(x), sync=sync),  # nobody's model but the function's
        lambda sync: DistributedDataParallel(compiled(model, sync=sync)),
    )
    for way in ways:
        with pytest.warns(bnfx.SyncWarning, match="BatchNorm2d .* trains in a thread of its own"):
            way("auto")(x)
        dist.barrier()
        with pytest.raises(bnfx.SyncError, match="run it in the thread that calls the model"):
            way("require")(x)
        dist.barrier()
        with warnings.catch_warnings():
            fail_on_warnings()
            way("off")(x)


def case_a_thread_that_trains() -> None:
    """All of the training in a thread that is not the main one is as good as any other."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(check, compiled).result()
        pool.submit(check, lambda model: by_parts(compiled(model))).result()


def case_required_of_a_part() -> None:
    """Without a group it raises, as the whole would."""
    world, rank = dist.get_world_size(), dist.get_rank()
    x = images(sizes())[rank]
    whole = compiled(make(Own))
    dist.destroy_process_group()
    with pytest.raises(bnfx.SyncError, match=r"^stem\.1 runs in training with sync=.require"):
        whole.stem(x)
    whole.eval()
    whole.stem(x)
    store = os.environ["SYNC_RENDEZVOUS"]
    dist.init_process_group("gloo", init_method=f"file://{store}part", rank=rank, world_size=world)


def case_estimated_from_single_values() -> None:
    """One value a channel over all ranks: no variance, so it does not count."""
    first, alone = dist.get_rank() == 0, torch.ones(1, 3).double()
    full = torch.cat(images(sizes())).mean((2, 3))
    mine = full.chunk(dist.get_world_size())[dist.get_rank()]
    norm = nn.BatchNorm1d(3).double()
    norm.running_var.fill_(1e3)
    for loader in ([alone, mine], [mine, alone]):
        given = loader if first else [each[:0] if each is alone else each for each in loader]
        bnfx.estimate_statistics(norm, given, progress=False)
        torch.testing.assert_close(norm.running_var, full.var(0))
        torch.testing.assert_close(norm.running_mean, full.mean(0))
    with pytest.raises(ValueError, match="a single value per channel in each batch"):
        bnfx.estimate_statistics(norm, [alone if first else alone[:0]], progress=False)
    torch.testing.assert_close(norm.running_var, full.var(0))
