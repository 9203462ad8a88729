"""Conversion there and back loses nothing, and refuses what it would have to lose."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import nn
from torch.nn.utils import parametrize

import bnfx
from bnfx.sync.convert import Conversion
from bnfx.sync.local import BatchNorm

KINDS = [(nn.BatchNorm1d, 3), (nn.BatchNorm2d, 4), (nn.BatchNorm3d, 5)]


@pytest.mark.parametrize(("kind", "rank"), KINDS)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_there_and_back(kind: Any, rank: int, options: dict[str, Any]) -> None:
    module = kind(4, eps=0.1, momentum=0.2, dtype=torch.float64, **options)
    before = dict(vars(module))
    assert bnfx.convert_sync_batchnorm(module) is module
    assert type(module) is bnfx.SyncBatchNorm
    x = torch.randn(3, 4, *[2] * (rank - 2), dtype=torch.float64)
    expected = kind(4, eps=0.1, momentum=0.2, dtype=torch.float64, **options)
    assert torch.equal(module(x), expected(x)), "without a process group it is local"
    with pytest.raises(ValueError, match="expected"):
        module(torch.randn(3, 4, 1, 1, 1, 1, dtype=torch.float64))
    bnfx.revert_sync_batchnorm(module)
    assert type(module) is kind
    assert vars(module) == before
    for name, value in expected.state_dict().items():
        assert torch.equal(value, module.state_dict()[name])


GROUPS = [torch.distributed.ProcessGroup(0, 1) for _ in range(2)]


def test_everything_stays_the_same_object() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()))
    norm, calls = model[1], []
    norm.weight.requires_grad_(False)
    norm.note = "mine"
    norm.eval()
    handle = norm.register_forward_hook(lambda *_: calls.append(1))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bnfx.convert_sync_batchnorm(model)
    assert model[1] is norm
    assert {**dict(model.named_parameters()), **dict(model.named_buffers())} == tensors
    assert (norm.note, norm.training, norm.weight.requires_grad) == ("mine", False, False)
    model(torch.randn(2, 3, 6, 6))
    handle.remove()
    model(torch.randn(2, 3, 6, 6))
    assert calls == [1]


def test_a_shared_module_is_converted_once() -> None:
    norm = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": nn.Sequential(norm, norm), "b": nn.Sequential(norm)})
    reports: list[Conversion] = []
    bnfx.convert_sync_batchnorm(model, report=reports.append)
    assert model["a"][0] is model["a"][1] is model["b"][0]
    assert type(model["b"][0]) is bnfx.SyncBatchNorm
    assert reports[0].converted == {"a.0": "BatchNorm2d -> SyncBatchNorm"}
    assert str(reports[0]).startswith("1 BatchNorm converted, 0 left as they were\na.0: ")


def test_converting_again_changes_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Linear(4, 4))
    bnfx.convert_sync_batchnorm(model, process_group=GROUPS[0])
    before = dict(vars(model[0]))
    reports: list[Conversion] = []
    bnfx.convert_sync_batchnorm(model, process_group=GROUPS[1], report=reports.append)
    assert vars(model[0]) == before
    assert (dict(reports[0].converted), reports[0].already) == ({}, ("0",))
    bnfx.revert_sync_batchnorm(bnfx.revert_sync_batchnorm(model))
    assert type(model[0]) is nn.BatchNorm2d


def test_torch_modules_are_taken() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(4)), GROUPS[0])
    bnfx.convert_sync_batchnorm(model)
    assert type(model[0]) is bnfx.SyncBatchNorm
    assert model[0].process_group is GROUPS[0]
    bnfx.revert_sync_batchnorm(model)
    assert type(model[0]) is BatchNorm
    for rank in (2, 3, 4, 5):
        assert model(torch.randn(3, 4, *[2] * (rank - 2))).dim() == rank
    bnfx.convert_sync_batchnorm(model)
    bnfx.revert_sync_batchnorm(model)
    assert type(model[0]) is BatchNorm
    torchs = nn.SyncBatchNorm(4)
    assert type(bnfx.revert_sync_batchnorm(torchs)) is BatchNorm
    assert not hasattr(torchs, "process_group")


class Doubled(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def replaced() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.forward = lambda x: x  # type: ignore[method-assign]
    return norm


def parametrized() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    parametrize.register_parametrization(norm, "weight", nn.Softplus())
    return norm


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Doubled(4), ["inner.1 is a Doubled", "would be lost", 'backend="bnfx"']),
        (nn.LazyBatchNorm2d, ["inner.1 is a LazyBatchNorm2d", "run the model once"]),
        (parametrized, ["inner.1", "parametrizations", "remove_parametrizations"]),
        (replaced, ["inner.1", "forward was replaced"]),
    ],
)
def test_refused_and_nothing_converted(make: Any, words: list[str]) -> None:
    model = nn.ModuleDict({"inner": nn.Sequential(nn.BatchNorm2d(4), make())})
    for change in (bnfx.convert_sync_batchnorm, bnfx.revert_sync_batchnorm):
        with pytest.raises(bnfx.ConversionError) as error:
            change(model)
        assert all(word in str(error.value) for word in words), error.value
        assert type(model["inner"][0]) is nn.BatchNorm2d


def test_a_lazy_module_that_has_run_is_converted() -> None:
    model = nn.Sequential(nn.LazyBatchNorm2d())
    model(torch.randn(2, 4, 3, 3))
    bnfx.convert_sync_batchnorm(model)
    assert type(model[0]) is bnfx.SyncBatchNorm
    assert model[0].num_features == 4


def test_instance_norms_are_left_alone() -> None:
    model = bnfx.convert_sync_batchnorm(nn.Sequential(nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)))
    assert [type(module) for module in model] == [nn.InstanceNorm2d, nn.GroupNorm]


def test_copies_and_pickles() -> None:
    model = randomise(bnfx.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(4)))).eval()
    x = torch.randn(2, 4, 3, 3)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(clone[0]) is bnfx.SyncBatchNorm
        assert clone[0].weight is not model[0].weight
        assert torch.equal(clone(x), model(x))
        assert type(bnfx.revert_sync_batchnorm(clone)[0]) is nn.BatchNorm2d


def test_evaluation_folds() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())).eval()
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    bnfx.convert_sync_batchnorm(model)
    assert bnfx.explain(model).count("folded") == 1
    assert bnfx.explain(model, x).count("folded") == 1
    folded = bnfx.fold(model)
    with torch.no_grad():
        assert relative(folded(x), expected) < 1e-5
        compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"}, fullgraph=True)
        assert relative(compiled(x), expected) < 1e-5
    reverted = bnfx.revert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 5, 3), nn.SyncBatchNorm(5)))
    assert bnfx.explain(reverted.eval(), x).count("folded") == 1


@pytest.mark.parametrize("options", [{"momentum": None}, {"affine": False}, {"momentum": 0.3}])
def test_alone_it_is_a_batch_norm(options: dict[str, Any]) -> None:
    ours, torchs = bnfx.SyncBatchNorm(4, **options), nn.BatchNorm2d(4, **options)
    for _ in range(3):
        x = torch.randn(3, 4, 5, 5)
        assert torch.equal(ours(x), torchs(x))
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert torch.equal(ours.eval()(x), torchs.eval()(x)) or options == {"momentum": None}


def test_recomputation_leaves_statistics_alone() -> None:
    """Activation checkpointing runs forward twice; one of them counts."""
    from torch.utils.checkpoint import checkpoint

    for reentrant in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), bnfx.SyncBatchNorm(4))
        once = copy.deepcopy(model)
        x = torch.randn(2, 3, 6, 6, requires_grad=True)
        once(x).square().sum().backward()
        checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
        assert model[1].num_batches_tracked == 1
        assert torch.equal(model[1].running_mean, once[1].running_mean)
        assert torch.equal(model[0].weight.grad, once[0].weight.grad)
