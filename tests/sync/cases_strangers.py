"""Layers that were put into a compiled model later, and copies of one; see test_outside.py."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support import fail_on_warnings
from torch import nn

import bnfx
from sync.cases_outside import Own, compiled
from sync.cases_parts import by_parts, check, compiled_in_place
from sync.training import images, make, sizes


def case_a_part_that_was_put_in_later() -> None:
    """It trained by itself beside compiled models, and then becomes a part of one, in any way."""
    x, expected = images(sizes())[dist.get_rank()], nn.BatchNorm2d(3).double()
    expected(torch.cat(images(sizes())))

    def put(index: int, parts: nn.ModuleList, norm: nn.Module) -> None:
        if index == 0:
            parts.append(norm)
        elif index == 1:
            parts.insert(0, norm)
        elif index == 2:
            parts._modules["last"] = norm
        else:
            parts[0].norm = norm

    for index in range(4):
        parts = nn.ModuleList([nn.Identity()])
        held = compiled(parts)
        norm = nn.BatchNorm2d(3).double()
        norm(x)  # of nobody
        norm.reset_running_stats()
        put(index, parts, norm)
        norm(x)
        torch.testing.assert_close(norm.running_var, expected.running_var)
        assert held.training


def case_copies_of_what_was_compiled_in_place() -> None:
    """Torch does not compile them: their layers are nobody's, and say so."""
    x = images(sizes())[dist.get_rank()]
    words = "trains in a copy of a model that was compiled in place; the copy is not compiled"

    def again(model: nn.Module) -> Any:
        return pickle.loads(pickle.dumps(model))

    def by_deepcopy_in_a_list(model: nn.Module) -> Any:
        return copy.deepcopy([copy.deepcopy(model)])[0]

    for copied in (copy.deepcopy, again, by_deepcopy_in_a_list):
        model = make(Own)
        model.compile(backend="bnfx", options={"inner": "eager"})
        with pytest.warns(bnfx.SyncWarning, match=words):
            copied(model)(x)
        other = copied(compiled_in_place(make(Own)))
        with pytest.raises(bnfx.SyncError, match=words):
            other(x)
    with warnings.catch_warnings():
        fail_on_warnings()
        copied(model).eval()(x)
        silent = make(Own)
        silent.compile(backend="bnfx", options={"inner": "eager", "sync": "off"})
        copy.deepcopy(silent)(x)
        other.compile(backend="bnfx", options={"inner": "eager", "sync": "off"})
        copy.deepcopy(other)(x)
        by_parts(compiled_in_place(copy.deepcopy(model)))(x)
        copy.deepcopy(compiled(make(Own))._orig_mod)(x)  # a model that never was compiled itself
        model._compiled_call_impl = None  # compiled no more, and no copy
        model(x)
    check(lambda model: by_parts(compiled_in_place(model)))
