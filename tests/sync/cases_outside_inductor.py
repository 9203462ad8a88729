"""The same with Inductor, and Dynamo's own limit of graphs; heavy; see test_outside.py."""

from __future__ import annotations

import functools

from torch.nn.parallel import DistributedDataParallel

from sync.cases_outside import (
    Looping,
    Own,
    both_orders,
    compiled,
    follow,
    plain,
    scheduled,
    steps,
)


def case_both_orders() -> None:
    for outer in (True, False):
        follow(plain, functools.partial(both_orders, outer=outer, inner="inductor"), steps())


def case_breaks() -> None:
    follow(Looping, lambda model: DistributedDataParallel(compiled(model, "inductor")), steps())


def case_momentum() -> None:
    def wrap(model: object) -> object:
        return DistributedDataParallel(compiled(model, "inductor"))

    follow(Own, wrap, steps(11), before=scheduled)
