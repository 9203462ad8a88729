"""What else data-parallel training does to a model: buckets, groups, copies; test_outside.py."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import bnfx
from sync.cases_outside import (
    LIMIT,
    Own,
    _uneven,
    compiled,
    follow,
    layers,
    limited,
    plain,
    scheduled,
    steps,
)
from sync.reference import loss_of
from sync.training import assert_alike, images, make, sizes, train, train_alone

SMALL = 1e-4  # MiB: a bucket for each gradient or two


@contextlib.contextmanager
def small_buckets() -> Iterator[None]:
    """Without DDP's graph splitter, which refuses buckets of less than 1 MiB."""
    with torch._dynamo.config.patch(optimize_ddp=False):
        yield


def data_parallel(model: nn.Module, outer: bool, **given: Any) -> Any:
    given = {"bucket_cap_mb": SMALL, **given}
    if outer:
        return compiled(DistributedDataParallel(model, **given), "aot_eager")
    return DistributedDataParallel(compiled(model, "aot_eager"), **given)


def each_order(**given: Any) -> Iterator[Callable[[nn.Module], Any]]:
    for outer in (True, False):
        yield functools.partial(data_parallel, outer=outer, **given)


def case_several_buckets() -> None:
    """Reductions of gradients come between those of statistics."""
    with small_buckets():
        for kind in (plain, Own):
            for wrap in each_order():
                follow(kind, wrap, steps(3))


def case_a_static_graph() -> None:
    with small_buckets():
        for wrap in each_order(static_graph=True):
            follow(Own, wrap, steps(3))


def case_gradients_that_are_views_of_buckets() -> None:
    with small_buckets():
        for wrap in each_order(gradient_as_bucket_view=True):
            model = make(Own)
            expected, run = copy.deepcopy(model), wrap(model)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            for batches in steps(3):
                expected = train_alone(expected, batches, 1)
                loss_of(run(batches[dist.get_rank()]), dist.get_rank()).backward()
                optimizer.step()
                optimizer.zero_grad()
                assert_alike(model, expected)


def case_several_buckets_where_one_rank_stops_compiling() -> None:
    rank, model = dist.get_rank(), make(Own)
    truth = bnfx.convert_sync_batchnorm(copy.deepcopy(model))
    with small_buckets(), limited():
        run = DistributedDataParallel(
            compiled(model, "aot_eager", dynamic=False), bucket_cap_mb=SMALL
        )
        for turn in range(LIMIT + 2):
            x = _uneven(turn)[rank]
            train(truth, truth, x, 1)
            train(run, model, x, 1, averaged=True)
            assert_alike(model, truth, 1e-9)


def case_gradients_of_two_batches_outside() -> None:
    """The first under no_sync; outside of graphs, where cases_backend has it inside."""
    rank, world = dist.get_rank(), dist.get_world_size()
    turns = [images(sizes()), [2 * x - 1 for x in images(sizes())]]
    with small_buckets():
        for outer in (True, False):
            model = make(plain)
            expected = copy.deepcopy(model)
            for batches in turns:
                outputs = expected(torch.cat(batches)).split(sizes())
                (sum(loss_of(o, r) for r, o in enumerate(outputs)) / world).backward()
            run = data_parallel(model, outer)
            with (run._orig_mod if outer else run).no_sync():
                loss_of(run(turns[0][rank]), rank).backward()
            loss_of(run(turns[1][rank]), rank).backward()
            assert_alike(model, expected)
            for mine, right in zip(model.parameters(), expected.parameters(), strict=True):
                torch.testing.assert_close(mine.grad, right.grad)


def case_ranks_with_little_or_nothing() -> None:
    rest = [3] * (dist.get_world_size() - 1)
    with small_buckets():
        for own, kind, outer in ((0, plain, True), (0, Own, False), (1, Own, True)):
            wrap = functools.partial(data_parallel, outer=outer)
            follow(kind, wrap, [images([own, *rest]), images([own, *rest][::-1])])


def case_groups_of_the_same_ranks() -> None:
    ranks = list(range(dist.get_world_size()))
    with small_buckets():
        for group in (dist.new_group(ranks), dist.new_group(ranks[::-1])):

            def wrap(model: nn.Module, group: Any = group) -> Any:
                run = compiled(model, process_group=group)
                return DistributedDataParallel(run, process_group=group, bucket_cap_mb=SMALL)

            follow(Own, wrap, steps(2), before=scheduled)


def _put_in(model: nn.Module, name: str, part: nn.Module) -> None:
    """By name, or at the end of a Sequential but one."""
    if isinstance(model, nn.Sequential):
        model.insert(2, part) if name == "new" else model.__setitem__(1, part)
    elif name == "new":
        model.head.insert(0, part)
    else:
        model.left = part


def case_layers_that_came_after_compilation() -> None:
    """One is added, then one replaced; the new one is called by itself, too."""
    rank = dist.get_rank()
    for kind in (plain, Own):
        model = make(kind)
        expected, run = copy.deepcopy(model), compiled(model, "aot_eager")
        for name in ("", "new", "other"):
            for each in (model, expected) if name else ():
                torch.manual_seed(7)
                _put_in(each, name, layers(4).double())
            batches = images(sizes())
            expected = train_alone(expected, batches, 1)
            train(run, model, batches[rank], 1)
            assert_alike(model, expected)
        x = [torch.randn(n, 4, 5, 5).double() + r for r, n in enumerate(sizes())]
        for each, value in ((model, x[rank]), (expected, torch.cat(x))):
            part = each.left if kind is Own else each[1]
            part(value)
        assert_alike(model, expected)


def case_copies_of_what_was_converted() -> None:
    rank = dist.get_rank()
    for copied in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))):
        model = copied(bnfx.convert_sync_batchnorm(make(Own)))
        expected = make(Own)
        for batches in steps():
            expected = train_alone(expected, batches, 1)
            train(model, model, batches[rank], 1)
        assert_alike(model, expected)


def case_a_group_that_is_made_again() -> None:
    """Compiled before there was one; destroyed, and made anew, between steps."""
    rank, world, batches = dist.get_rank(), dist.get_world_size(), images(sizes())
    dist.destroy_process_group()
    models = [make(Own), make(plain)]
    truths = [copy.deepcopy(model) for model in models]
    torch._dynamo.reset()
    options = {"inner": "eager", "sync": "auto"}
    runs = [torch.compile(model, backend="bnfx", options=options) for model in models]
    for turn in range(2):
        for run, truth in zip(runs, truths, strict=True):  # alone
            with torch.no_grad():
                run(batches[0])
                truth(batches[0])
        store = os.environ["SYNC_RENDEZVOUS"]
        dist.init_process_group(
            "gloo", init_method=f"file://{store}edges{turn}", rank=rank, world_size=world
        )
        for place, (run, model) in enumerate(zip(runs, models, strict=True)):
            truths[place] = train_alone(truths[place], batches, 1)
            train(run, model, batches[rank], 1)
            assert_alike(model, truths[place])
        if not turn:
            dist.destroy_process_group()
