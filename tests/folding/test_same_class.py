"""keep="module": the user's own class, with fewer layers, or a reason."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import timm
import torch
from support import randomise, relative
from timm.layers import BatchNormAct2d
from torch import nn

import bnfx
from bnfx.folding.modules.affine_modules import RankChecked
from bnfx.passes.fx.calls.modules import is_batch_norm
from bnfx.passes.refusals import MEANINGS, Code


class Block(nn.Module):
    """A conv, its BatchNorm, and methods that users call themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.note = "mine"

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_features(x).mean((2, 3))


X = torch.randn(2, 3, 8, 8).double()


def ready(model: nn.Module) -> nn.Module:
    return randomise(model.double()).eval()


def norms(model: nn.Module) -> int:
    return sum(map(is_batch_norm, model.modules()))


def agrees(folded: nn.Module, model: nn.Module, x: torch.Tensor = X) -> None:
    with torch.no_grad():
        assert relative(folded(x), model(x)) < 1e-12


def test_class_methods_attributes_pickling_and_state() -> None:
    model = ready(Block())
    before = copy.deepcopy(model.state_dict())
    folded = bnfx.fold(model, X, verify=1e-12)
    assert type(folded) is Block
    assert type(folded.bn) is nn.Identity
    assert folded.note == "mine"
    assert not folded.training
    assert folded.conv.bias.requires_grad
    agrees(folded, model)
    with torch.no_grad():
        assert relative(folded.forward_features(X), model.forward_features(X)) < 1e-12
    assert set(folded.state_dict()) == {"conv.weight", "conv.bias"}
    again = bnfx.fold(ready(Block()), X)
    again.load_state_dict(folded.state_dict())
    agrees(again, model)
    agrees(pickle.loads(pickle.dumps(folded)), model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        folded.conv.weight.zero_()
    assert torch.equal(model.conv.weight, before["conv.weight"])


def test_hooks_of_the_model_stay() -> None:
    model = ready(Block())
    model.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.warns(bnfx.FoldWarning, match="bn: .*Block has hooks"):
        assert norms(bnfx.fold(model, X, keep="module")) == 1
    folded = bnfx.fold(model, X, keep="module", assume="example")
    assert norms(folded) == 0
    agrees(folded, model)


class Raw(Block):
    def raw(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Branch(Block):
    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.conv(x)
        return super().forward_features(x)


class SplitMethods(Block):
    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.first(x)).mean((2, 3))


class ByName(Block):
    def run(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, {"c": "conv"}[name])(x)


class Twice(Block):
    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) + self.conv(x)


class TwoNorms(Block):
    def __init__(self) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(4)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) * self.bn2(self.conv(x)).relu()


class Tied(Block):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 4, 3, bias=False)
        self.other.weight = self.conv.weight

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward_features(x) + self.other(x)


class Reading(Block):
    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward_features(x) + self.conv.weight.sum()


class Outer(nn.Module):
    """The conv is the last of a container."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3))
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.body(x))


def hooked() -> nn.Module:
    model = Block()
    model.conv.register_forward_hook(lambda module, args, output: None)
    return model


def parametrized() -> nn.Module:
    model = Block()
    nn.utils.parametrizations.weight_norm(model.conv)
    return model


REFUSED = {
    "other method": (
        Raw,
        r"bn: .*Raw\.raw, line \d+, may run, read or change self\.conv by itself",
    ),
    "other branch": (
        Branch,
        r"bn: .*Branch\.forward_features, line \d+, may run.* self\.conv by itself",
    ),
    "split methods": (SplitMethods, "bn: .*no layer .* is proved to run right before or behind it"),
    "by name": (ByName, r"bn: .*ByName\.run is not plain, line \d+: self"),
    "tied": (Tied, "bn: .*the weights of conv are held elsewhere too"),
    "read": (
        Reading,
        r"bn: .*Reading\.forward_features, line \d+, may run, read .* self\.conv by itself",
    ),
    "different folds": (
        TwoNorms,
        r"bn2: .*TwoNorms\.forward_features, line \d+, may .* self\.conv by it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_run_otherwise_is_refused_with_its_reason(case: str) -> None:
    make, words = REFUSED[case]
    model = ready(make())
    with pytest.warns(bnfx.FoldWarning, match=words) as caught:
        folded = bnfx.fold(model, X, keep="module")
    assert norms(folded) == norms(model)
    agrees(folded, model)
    assert Code.OTHER_MODULES in MEANINGS
    assert f"{Code.OTHER_MODULES.value}: " in str(caught[0].message)


def test_a_layer_at_the_end_of_a_container_that_only_runs_whole() -> None:
    model = ready(Outer())
    folded = bnfx.fold(model, X, keep="module")
    assert type(folded) is Outer
    assert norms(folded) == 0
    agrees(folded, model)


@pytest.mark.parametrize("make", [Twice, hooked, parametrized])
def test_what_the_graph_itself_keeps_or_computes_stays(make) -> None:
    model = ready(make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        folded = bnfx.fold(model, X, keep="module")
    assert norms(folded) == 1
    agrees(folded, model)


def test_one_module_called_twice_with_one_fold() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x) - self.block(x.flip(3) * 2)

    model = ready(Siamese())
    folded = bnfx.fold(model, X, keep="module")
    assert norms(folded) == 0
    agrees(folded, model)


def test_a_module_in_two_places_is_refused() -> None:
    shared = nn.BatchNorm2d(3)
    model = ready(nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.Conv2d(3, 3, 1), shared))
    with pytest.warns(bnfx.FoldWarning, match="registered in several places"):
        folded = bnfx.fold(model, X, keep="module")
    agrees(folded, model)


def test_untraceable_models_fold_in_parts() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.loss = Block(), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                return self.loss(x)
            return self.backbone(x) if x.sum() > -1e9 else x

    model = ready(Detector())
    folded = bnfx.fold(model, X)
    assert type(folded) is Detector
    assert type(folded.backbone.bn) is nn.Identity
    assert type(folded.loss) is nn.BatchNorm2d
    agrees(folded, model)


def test_a_fold_that_rested_on_the_rank_checks_it() -> None:
    model = ready(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)))
    x = torch.randn(4, 6).double()
    folded = bnfx.fold(model, x)
    assert type(folded[1]) is RankChecked
    agrees(folded, model, x)
    with pytest.raises(AssertionError, match="folded for inputs of 2 dimensions"):
        folded(torch.randn(4, 6, 6).double())


def test_auto_gives_a_graph_where_modules_cannot_hold_every_fold() -> None:
    model = ready(Raw())
    with pytest.warns(
        bnfx.FoldWarning, match="GraphModule, since Raw is not proved.*Raw.raw, line"
    ):
        folded = bnfx.fold(model, X)
    assert isinstance(folded, torch.fx.GraphModule)
    agrees(folded, model)


def test_auto_says_which_rule_needs_a_graph() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) + self.two(x)

    with pytest.warns(bnfx.FoldWarning, match="merge-parallel-linear made layers"):
        folded = bnfx.fold(ready(Branches()), X)
    assert isinstance(folded, torch.fx.GraphModule)


@pytest.mark.slow
def test_auto_keeps_the_class_where_a_graph_gains_only_a_multiply_add() -> None:
    model = ready(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU(), Block()))
    folded = bnfx.fold(model, X)
    assert type(folded) is nn.Sequential
    assert norms(folded) == 1
    agrees(folded, model)
    assert norms(bnfx.fold(model, X, keep="graph")) == 0


def test_a_module_is_told_of_ranks_too() -> None:
    model = ready(nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)))
    with pytest.warns(bnfx.FoldWarning, match="1 BatchNorm kept, as ranks are not known"):
        folded = bnfx.fold(model, keep="module")
    assert norms(folded) == 1


def test_batch_norm_in_front() -> None:
    model = ready(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU()))
    folded = bnfx.fold(model, X, keep="module")
    assert norms(folded) == 0
    agrees(folded, model)
    padded = ready(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        folded = bnfx.fold(padded, X, keep="module")
    assert norms(folded) == 1
    agrees(folded, padded)


def test_timms_activation_stays() -> None:
    conv = nn.Conv2d(3, 4, 3)
    model = ready(nn.Sequential(conv, BatchNormAct2d(4, act_layer=nn.LeakyReLU)))
    with pytest.warns(bnfx.FoldWarning, match="1 BatchNorm left.* 1: "):
        assert norms(bnfx.fold(model, X, keep="module")) == 1
    folded = bnfx.fold(model, X, keep="module", assume="example")
    assert norms(folded) == 0
    assert type(folded[1].act) is nn.LeakyReLU
    agrees(folded, model)
    resnet = ready(timm.create_model("resnet18"))
    x = torch.randn(1, 3, 64, 64).double()
    same = bnfx.fold(resnet, x, keep="module", assume="example")
    assert type(same) is type(resnet)
    assert norms(same) == 0
    with torch.no_grad():
        ours, theirs = same.forward_features(x), resnet.forward_features(x)
        assert relative(ours, theirs) < 1e-12
        several = zip(
            same.forward_intermediates(x)[1], resnet.forward_intermediates(x)[1], strict=True
        )
        assert all(relative(a, b) < 1e-12 for a, b in several)


def test_what_stays_beside_layers_that_cannot_take_it_is_explained() -> None:
    """The pair is proved; it is the layer that has no weight of its own, or is none."""

    def block(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), *layers)

    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
    fixed = nn.BatchNorm2d(4)
    nn.utils.parametrize.register_parametrization(fixed, "bias", nn.Identity())
    cases = (
        (block(normed, nn.BatchNorm2d(4)), r"2 \(ParametrizedConv2d\), next to it, cannot take it"),
        (block(nn.Conv2d(4, 4, 1), fixed), r"3: .*the numbers of 3 are computed, not stored"),
    )
    for model, says in cases:
        with pytest.warns(bnfx.FoldWarning, match=says):
            bnfx.fold(randomise(model).eval(), torch.ones(1, 3, 4, 4), keep="module")


def test_a_mode_of_padding_that_is_not_known() -> None:
    model = ready(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)))
    model[1].padding_mode = "constant"  # torch's constructor refuses it, and its forward takes it
    for folded in (bnfx.fold(torch.fx.symbolic_trace(model)), bnfx.fold(model, keep="module")):
        agrees(folded, model)
