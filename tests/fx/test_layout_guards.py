"""Where a layout is missed, what stands for names that torch may not have, and odd spellings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bnfx.passes.fx import private
from bnfx.passes.fx.facts.spelling import aten_name, spelling_of
from bnfx.passes.fx.lowering.bind import bind, fill
from bnfx.passes.fx.memory.strides import is_dense, layout_of, must_lay_out

aten = torch.ops.aten
DENSE = torch.empty(2, 3, 4, 5)
LAST = DENSE.to(memory_format=torch.channels_last)
TURNED = DENSE.transpose(2, 3)  # fills its memory, in an order of its own
PART = DENSE[:, :, 1:]  # does not
TURNED_PART = PART.transpose(2, 3)


def _missed(value: Any, *readers: Any, keeps: bool = False) -> bool:
    """Whether readers, one behind the other, miss the layout of a node that reads ``value``; those
    that negate may vanish.
    """
    graph = fx.Graph()
    source = graph.placeholder("x")
    if value is not None:
        source.meta["val"] = value
    node = last = graph.call_function(torch.mul, (source, 2))
    for reader in readers:
        if reader == "output":
            graph.output(last)
        elif reader == "call_module":
            last = graph.call_module("leaf", (last,))
        elif isinstance(reader, str):
            last = graph.call_method(reader, (last, -1))
        else:
            last = graph.call_function(reader, (last,))
    root = nn.Module()
    root.leaf = nn.ReLU()
    return must_lay_out(node, source, root, lambda user: user.target is torch.neg, keeps)


@pytest.mark.parametrize(
    ("value", "readers", "keeps", "expected"),
    [
        (None, ("output",), False, False),
        (DENSE, ("output",), False, False),
        (LAST, ("output",), False, False),
        (TURNED, ("output",), False, True),
        (TURNED, ("output",), True, False),
        (PART, ("output",), True, True),
        (PART, ("output",), False, True),
        (TURNED, (), False, False),
        (TURNED, (torch.relu,), False, False),
        (TURNED, (torch.relu, "view"), False, True),
        (TURNED, (torch.relu, "reshape"), False, False),
        (TURNED, ("call_module",), False, True),
        (TURNED_PART, (torch.relu, "output"), True, True),
        # What is made anew from a part lies in order.
        (PART, (torch.relu, "view"), False, False),
        (PART, (torch.relu, "output"), False, False),
        (PART, (torch.neg, torch.relu, "output"), False, False),
        # But not by what is taken out itself.
        (PART, (torch.neg, "output"), False, True),
        (PART, (torch.neg, torch.neg, "view"), True, True),
        (PART, ("view",), False, True),
        (PART, ("reshape", "view"), False, True),
        (TURNED, ("of_nobodys",), False, False),
    ],
)
def test_who_misses_a_layout(
    value: Any, readers: tuple[Any, ...], keeps: bool, expected: bool
) -> None:
    assert _missed(value, *readers, keeps=keeps) is expected


def test_many_readers() -> None:
    assert not _missed(TURNED, *[torch.relu] * 64)
    assert _missed(TURNED, *[torch.relu] * 65)


def test_layouts() -> None:
    def layout(value: Any) -> Any:
        node = fx.Graph().placeholder("x")
        node.meta["val"] = value
        return layout_of(node)

    assert layout(None) is None
    assert layout(DENSE) is None
    assert layout(TURNED) is None
    assert layout(LAST) is torch.channels_last
    deep = torch.empty(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    assert layout(deep) is torch.channels_last_3d
    both = torch.empty(2, 1, 4, 5).to(memory_format=torch.channels_last)
    assert layout(both) is None
    assert [is_dense(each) for each in (DENSE, LAST, TURNED, PART)] == [True, True, False, False]
    assert not is_dense(torch.empty(2, 3, 4).transpose(0, 1))


def test_layouts_inside_of_vmap() -> None:
    seen: list[bool] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_dense(x.transpose(0, 2)))
        return x

    torch.vmap(run)(torch.empty(2, 3, 4, 5, 6))
    assert seen == [False]


def test_schemas() -> None:
    class Odd:
        _schema = "none"

    assert private.schema_of(aten.add.Tensor) is aten.add.Tensor._schema
    assert private.schema_of(Odd()) is None
    assert private.schema_of(aten.add) is None


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = torch.ones(4), torch.ones(4)
    sparse = one.to_sparse()
    for _ in range(2):  # the second time, without torch's own way
        assert private.memory(one[:2]) == private.memory(one[2:])
        assert private.memory(one) != private.memory(other)
        assert private.memory(sparse) is None
        fake = FakeTensorMode().from_tensor(one)
        assert private.memory(fake) == private.memory(fake[1:])
        assert private.memory(fake) != private.memory(one)
        monkeypatch.setattr(private, "_StorageWeakRef", None)
    assert private.fills_its_memory(TURNED)
    assert not private.fills_its_memory(PART)
    monkeypatch.setattr(private, "_is_dense", None)
    assert not private.fills_its_memory(DENSE)


def test_fake_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    mode = FakeTensorMode()
    fake = mode.from_tensor(torch.ones(2))
    assert private.fake_mode_of([torch.ones(2), fake]) is mode
    with mode:
        assert private.fake_mode_of([]) is mode
    monkeypatch.setattr(private, "_detect_fake_mode", None)
    assert private.fake_mode_of([2, torch.ones(2), fake]) is mode
    assert private.fake_mode_of([torch.ones(2)]) is None


def test_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            with private.without_autocast():
                assert (x @ x).dtype == torch.float32
            assert (x @ x).dtype == torch.bfloat16
            monkeypatch.setattr(private, "_DisableAutocast", None)


def test_who_switches_gradients() -> None:
    graph = fx.Graph()
    x = graph.placeholder("set_grad_enabled")
    assert private.switches_gradients(graph.call_function(torch._C._set_grad_enabled, (True,)))
    assert private.switches_gradients(graph.call_function(torch.set_grad_enabled, (True,)))
    assert not private.switches_gradients(graph.call_function(torch.relu, (x,)))
    assert not private.switches_gradients(graph.call_method("set_grad_enabled", (x,)))


def test_odd_spellings() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    for target in (torch.ops.prims.mul, torch.ops.prims.mul.default, aten.pow_.Tensor):
        assert spelling_of(graph.call_function(target, (x, x))) is None
    assert spelling_of(graph.call_function(getattr, (x, "shape", None))) is None
    assert spelling_of(graph.call_module("relu", (x,))) is None
    assert aten_name(torch.ops.prims.mul.default) == ""
    assert aten_name(aten.add_.Tensor) == "add_"
    assert aten_name("add") == ""


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.register_buffer("b", torch.zeros(2))

    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return x * self.w + y + self.b


def test_placeholders_that_are_bound() -> None:
    module = fx.symbolic_trace(_Scaled().eval())
    x, y, z, *_ = module.graph.nodes
    x._dynamo_source, y.meta = "told", {"val": DENSE, "example_value": DENSE, "other": 1}
    module.meta["note"] = 1
    leaf = torch.full((2,), 3.0, requires_grad=True)
    for tensor, grad in ((leaf, True), (leaf * 1, False), (leaf.detach(), False)):
        bound = bind(module, {"y": tensor, "z": tensor, "mul": tensor})
        found: dict[str, fx.Node] = {node.name: node for node in bound.graph.nodes}
        assert [n for n, node in found.items() if node.op == "placeholder"] == ["x"]
        constant = next(node for node in bound.graph.nodes if node.target == "_bound_y")
        assert constant.meta == {"val": DENSE, "example_value": DENSE}
        assert not hasattr(bound, "_bound_z")
        assert bound._bound_y.requires_grad is grad
        assert bound._bound_y.data_ptr() == tensor.data_ptr()
        assert found["x"]._dynamo_source == "told"
        assert (bound.training, bound.meta["note"]) == (False, 1)
        assert bound(torch.ones(2)).tolist() == [4.0, 4.0]
    assert z.op == "placeholder"


def test_attributes_that_are_filled() -> None:
    module = fx.symbolic_trace(_Scaled())
    module.w.requires_grad_(False)
    fill(module, {"w": torch.full((2,), 2.0), "b": torch.ones(2)})
    assert dict(module.named_parameters()).keys() == {"w"}
    assert dict(module.named_buffers()).keys() == {"b"}
    assert not module.w.requires_grad
    assert module(1, 1, None).tolist() == [4.0, 4.0]
