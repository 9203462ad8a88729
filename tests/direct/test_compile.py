"""What ``bnfx.compile`` takes and gives, and its calls within other graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from direct_models import check, compiled
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

import bnfx
from bnfx.direct.compiled import CompiledModule


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2).double().eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(x) * 2


class Broken(Normed):
    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(x)
        torch._dynamo.graph_break()
        return x * 2


def image(*size: int) -> torch.Tensor:
    return torch.randn(*(size or (1, 2, 3, 3)), dtype=torch.float64)


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Normed().eval()
    call = compiled(model)
    assert type(call) is CompiledModule
    assert call._orig_mod is model
    assert compiled(call)._orig_mod is model
    assert compiled(torch.compile(model, backend="eager"))._orig_mod is model
    # Where Dynamo is switched off, and where something else stands for what is compiled.
    for given in (model, type("Own", (OptimizedModule,), {})(model, call.dynamo_ctx)):
        monkeypatch.setattr(torch, "compile", lambda *_, given=given, **__: given)
        assert type(compiled(model)) is type(given)


@pytest.mark.parametrize("given", [len, lambda x: x, None, nn.ReLU])
def test_what_is_no_model(given: Any) -> None:
    with pytest.raises(TypeError, match=r"bnfx.compile takes a torch.nn.Module, not .*: for func"):
        bnfx.compile(given)


@pytest.mark.parametrize("options", [None, {"inner": "eager"}])
def test_options(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are handed over as they are, in a dict of their own."""
    given = dict[str, Any]()
    monkeypatch.setattr(torch, "compile", lambda model, **rest: given.update(rest) or model)
    bnfx.compile(Normed(), options=options)
    assert given.pop("options") == options
    rest = {"backend": "bnfx", "fullgraph": False, "dynamic": None, "mode": None}
    assert given == rest


def test_graphs_that_break(direct: list[int]) -> None:
    model = Broken().eval()
    with torch.no_grad():
        check(compiled(model), model, image())
        torch._dynamo.reset()
        whole: Any = bnfx.compile(model, fullgraph=True, options={"inner": "eager"})
        with pytest.raises(torch._dynamo.exc.Unsupported):
            whole(image())
    assert not direct


@pytest.mark.parametrize("within", ["compiled", "exported"])
def test_within_another_graph(within: str, direct: list[int]) -> None:
    """It is the model's own ops that the larger graph gets."""
    model, x = Normed().eval(), image()
    call = compiled(model)

    class Larger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = call

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x) + 1

    with torch.no_grad():
        check(call, model, x)
        before = len(direct)
        if within == "compiled":
            whole: Any = torch.compile(Larger().eval(), backend="eager", fullgraph=True)
        else:
            whole = torch.export.export(Larger().eval(), (x,), strict=False).module()
        torch.testing.assert_close(whole(x), model(x) + 1)
        assert len(direct) == before


def test_calls_are_learned_once_asked(direct: list[int]) -> None:
    model = Normed().eval()
    with torch.no_grad():
        call = compiled(model)
        assert call._bnfx_calls is None
        call(image())
        calls = call._bnfx_calls
        for at in range(3):
            call(image())
            assert len(direct) == at + 1
    assert call._bnfx_calls is calls
