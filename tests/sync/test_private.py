"""Private parts of torch may vanish: that is an error or less speed, never a wrong answer."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import bnfx
from bnfx.inner.resolve import resolve
from bnfx.options import Options
from bnfx.passes.fx.training.synchronise import Swapped
from bnfx.passes.report import Site
from bnfx.sync.graphs import compiled_call, graph_calls, overlap


def test_no_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._dynamo.source.GlobalStateSource")
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(5, 3)
    options = {"inner": "eager"}
    with pytest.raises(bnfx.SyncError, match=r'cannot guard a graph .* use sync="off"'):
        torch.compile(model, backend="bnfx", options=options)(x)
    torch._dynamo.reset()
    torch.compile(model, backend="bnfx", options={**options, "sync": "off"})(x)


def test_no_view_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_call, "_codes", None)
    monkeypatch.delattr("torch._dynamo.eval_frame._TorchDynamoContext.__call__")
    assert not compiled_call.can_see_calls()
    assert compiled_call.current_call() is None
    with pytest.raises(bnfx.SyncError, match=r"does not show which .*bnfx.convert_sync_batchnorm"):
        graph_calls._say_that_calls_are_hidden(required=True)
    with pytest.warns(bnfx.SyncWarning, match="outside of graphs"):
        graph_calls._say_that_calls_are_hidden(required=False)


def test_no_custom_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = resolve(Options(), None)
    swapped = Swapped(torch.fx.symbolic_trace(nn.Identity()), ((Site("bn", "batch_norm", ""),),))
    overlap._graph_pass.cache_clear()
    assert overlap.overlapping(inner, swapped) is not inner
    overlap._graph_pass.cache_clear()
    monkeypatch.setitem(sys.modules, "torch._inductor.custom_graph_pass", None)
    assert overlap.overlapping(inner, swapped) is inner
    overlap._graph_pass.cache_clear()


def test_the_user_s_own_pass_is_kept() -> None:
    def own(graph: torch.fx.Graph) -> None:
        pass

    inner = resolve(Options(inner_options={"post_grad_custom_post_pass": own}), None)
    swapped = Swapped(torch.fx.symbolic_trace(nn.Identity()), ((Site("bn", "batch_norm", ""),),))
    patches = overlap.overlapping(inner, swapped).compile.keywords["patches"]
    assert patches["post_grad_custom_post_pass"] is own
