"""Whatever is changed between two calls of what ``bnfx.compile`` gave, the answer is right."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from direct_models import check, compiled
from support import randomise
from torch import nn

SCALE = 2.0
TABLE = {"scale": 1.5}
SHARED = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def leaky(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.3)


def scaled_by(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def scale(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    return scale


def divided_by(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def scale(x: torch.Tensor) -> torch.Tensor:
        return x / factor

    return scale


class Flags:
    def __init__(self) -> None:
        self.depth = 1


class Net(nn.Module):
    """Reads from every place that a forward may read from."""

    names: tuple[str, ...] = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.rest = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.parts = nn.ModuleList([nn.Conv2d(4, 4, 1)])
        self.flag, self.steps, self.shape = True, 2, (1, 2)
        self.table, self.items, self.flags = {"a": 1.0}, [1, 2], Flags()
        self.act, self.scale = leaky, scaled_by(1.5)
        self.plain = torch.linspace(0.5, 2.0, 4)
        self.register_buffer("offset", torch.linspace(-1.0, 1.0, 4))
        randomise(self, 0).double().eval().requires_grad_(False)
        self.plain = self.plain.double()

    def forward(self, x: torch.Tensor, more: Any = None, *, factor: float = 1.0) -> torch.Tensor:
        x = self.rest(self.norm(self.conv(x)))
        for part in self.parts:
            x = part(x)
        if self.flag:
            x = F.relu(x) - 0.25 * x
        x = x * self.steps + self.shape[1] * self.table["a"] + self.items[0] + self.flags.depth
        x = self.scale(self.act(x)) * (self.plain + self.offset)[:, None, None]
        x = x * SCALE * TABLE["scale"] * SHARED[:, None, None] * len(self.names)
        return x * factor if more is None else x * factor + more


# Changes of a model.


def flag(m: Net) -> None:
    m.flag = False


def number(m: Net) -> None:
    m.steps = 3


def tuple_(m: Net) -> None:
    m.shape = (1, 5)


def in_a_dict(m: Net) -> None:
    m.table["a"] = 2.0


def in_a_list(m: Net) -> None:
    m.items[0] = 7


def in_an_object(m: Net) -> None:
    m.flags.depth = 4


def class_attribute(m: Net) -> None:
    m.names = ("a", "b", "c")


def function(m: Net) -> None:
    m.act = torch.tanh


def closure(m: Net) -> None:
    m.scale.__closure__[0].cell_contents = 2.5


def code(m: Net) -> None:
    m.scale.__code__ = divided_by(1.0).__code__


def plain_tensor(m: Net) -> None:
    m.plain = m.plain * 2


def plain_tensor_in_place(m: Net) -> None:
    m.plain.mul_(-1.0)


def buffer_in_place(m: Net) -> None:
    m.offset.mul_(-1.0)


def buffer_anew(m: Net) -> None:
    del m.offset
    m.register_buffer("offset", torch.full((4,), 0.7, dtype=torch.float64), persistent=False)


def weight_in_place(m: Net) -> None:
    m.conv.weight.data.mul_(2)


def weight_anew(m: Net) -> None:
    m.conv.weight = nn.Parameter(m.conv.weight * 3, requires_grad=False)


def data_assigned(m: Net) -> None:
    m.norm.weight.data = m.norm.weight.data * -1.0


def other_layout(m: Net) -> None:
    m.conv.weight.data = m.conv.weight.data.contiguous(memory_format=torch.channels_last) * 2


def no_bias(m: Net) -> None:
    m.conv.register_parameter("bias", None)


def statistics(m: Net) -> None:
    m.norm.running_var.add_(1.0)


def eps(m: Net) -> None:
    m.norm.eps = 0.5


def loaded(m: Net) -> None:
    m.load_state_dict({k: v * 1.25 for k, v in m.state_dict().items()})


def loaded_by_assignment(m: Net) -> None:
    m.load_state_dict({k: v * 1.25 for k, v in m.state_dict().items()}, assign=True)


def module_anew(m: Net) -> None:
    m.norm = randomise(nn.BatchNorm2d(4), 5).double().eval().requires_grad_(False)


def module_of_another_kind(m: Net) -> None:
    m.norm = nn.Identity()


def in_a_sequential(m: Net) -> None:
    m.rest[1] = nn.Identity()


def appended(m: Net) -> None:
    m.parts.append(nn.Conv2d(4, 4, 1).double().requires_grad_(False))


def swapped_in_the_dict(m: Net) -> None:
    m._modules["conv"] = nn.Conv2d(2, 4, 3, stride=1, bias=False).double().requires_grad_(False)


def stride(m: Net) -> None:
    m.conv.stride = (2, 2)


def all_attributes(m: Net) -> None:
    m.__dict__ = copy.copy(Net.__new__(Net).__dict__) | copy.deepcopy(m.__dict__) | {"steps": 5}


class Doubled(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def class_of_a_layer(m: Net) -> None:
    m.norm.__class__ = Doubled


def forward_of_a_layer(m: Net) -> None:
    m.norm.forward = lambda x: x * 3


def forward_of_the_model(m: Net) -> None:
    m.forward = types.MethodType(lambda self, x: self.conv(x) * 3, m)


def hook(m: Net) -> None:
    m.register_forward_hook(lambda module, args, out: out + 1)


def pre_hook(m: Net) -> None:
    m.register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def hook_with_keywords(m: Net) -> None:
    m.register_forward_pre_hook(lambda module, a, k: ((a[0] + 1,), k), with_kwargs=True)


def gradients(m: Net) -> None:
    m.requires_grad_()


def one_gradient(m: Net) -> None:
    m.conv.bias.requires_grad_()


def part_in_training(m: Net) -> None:
    m.norm.train()


def swapped_tensors(m: Net) -> None:
    torch.utils.swap_tensors(m.conv.weight, nn.Parameter(m.conv.weight * 4, requires_grad=False))


CHANGES: tuple[Callable[[Net], None], ...] = (
    *(
        flag,
        number,
        tuple_,
        in_a_dict,
        in_a_list,
        in_an_object,
        class_attribute,
        function,
        closure,
        code,
        plain_tensor,
        plain_tensor_in_place,
        buffer_in_place,
        buffer_anew,
        weight_in_place,
        weight_anew,
        data_assigned,
        other_layout,
        no_bias,
        statistics,
        eps,
        loaded,
        loaded_by_assignment,
        module_anew,
        module_of_another_kind,
        in_a_sequential,
        appended,
        swapped_in_the_dict,
        stride,
        all_attributes,
        class_of_a_layer,
        forward_of_a_layer,
        forward_of_the_model,
        hook,
        pre_hook,
        hook_with_keywords,
        gradients,
        one_gradient,
        part_in_training,
        swapped_tensors,
    ),
)


class Asking(Net):
    """Whether a parameter, a layer or a class has an attribute."""

    asked: str

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = {"tensor": self.conv.weight, "buffer": self.norm.running_mean, "layer": self.conv}
        found = super().forward(x)
        return found * 3 if hasattr(held[self.asked], "doubled") else found


@pytest.mark.parametrize("asked", ["tensor", "buffer", "layer"])
def test_an_attribute_that_was_not_there(asked: str, direct: list[int]) -> None:
    model, x = Asking(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    model.asked = asked
    held: dict[str, Any] = {"tensor": model.conv.weight, "buffer": model.norm.running_mean}
    with torch.no_grad():
        call = compiled(model)
        check(call, model, x)
        before = len(direct)
        call(x)
        assert len(direct) == before + 1, call._bnfx_calls.why_not
        held.get(asked, model.conv).doubled = True
        check(call, model, x)
        del held.get(asked, model.conv).doubled
        check(call, model, x)


@pytest.mark.parametrize("gradients_on", [pytest.param(False, marks=pytest.mark.heavy), True])
def test_changes(direct: list[int], gradients_on: bool) -> None:
    """Each change alone, on a model that is served straight; then again without it."""
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    late, models = list[Callable[[Net], None]](), list[Net]()
    for change in CHANGES:
        if gradients_on and "grad" not in change.__name__ and "hook" not in change.__name__:
            continue
        model = Net()
        models.append(model)  # Dynamo drops what was compiled for one that is gone
        call = compiled(model)
        with torch.set_grad_enabled(gradients_on):
            check(call, model, x)
            before = len(direct)
            call(x)
            assert len(direct) == before + 1, (change.__name__, call._bnfx_calls.why_not)
            change(model)
            check(call, model, x)
            if len(direct) == before + 1:
                late.append(change)
    assert late == [hook, pre_hook, hook_with_keywords], "the others are served straight again"
