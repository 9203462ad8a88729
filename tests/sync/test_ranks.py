"""All that runs on 2, 3 and 4 ranks, against one process with the whole batch.

``bnfx.sync_batch_norm``, the cases that other implementations are tested with, and the backend.
Starting ranks is what costs, so a world is started once.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import bnfx
from sync.launch import run_cases

EAGER = "cases_functional+cases_replay"
COMPILED = "cases_backend+cases_when+cases_order"
# What is Inductor's own: the other cases with it are those of cases_replay once more.
INDUCTOR = (
    "case_whole_graphs_and_caches",
    "case_weight_gradients_run_beside_reductions",
    "case_our_module_in_bfloat16",
)
# Where it matters that there are more ranks than two, or an odd number of them.
THREE = (
    *("case_values", "case_variants", "case_double_backward", "case_ranks_far_apart"),
    *("case_groups", "case_dtypes_of_ranks_may_differ", "case_one_value", "case_nothing_at_all"),
    *("case_1_torch_training", "case_4_empty", "case_6_apex_groups", "case_6_apex_uneven"),
    *("case_8_mmcv", "case_9_horovod", "case_12_equal_weights_are_wrong"),
)


# Left to CI: what they show of longer nets and of other layers, the rest show of shorter ones.
LONG = (
    *("case_6_apex", "case_7_cudnn_group_batch_norm", "case_torchvision", "case_our_modules"),
    *("case_dynamic", "case_cumulative_average", "case_guarded", "case_checkpointing_around"),
    *("case_accumulation", "case_other_sizes", "case_evaluation_is_local"),
)
BUT_LONG = tuple(f"not {name}" for name in LONG)


@pytest.mark.parametrize(
    ("world", "modules", "names"),
    [
        pytest.param(2, f"{EAGER}+{COMPILED}", BUT_LONG, id="2"),
        pytest.param(2, f"{EAGER}+{COMPILED}", LONG, marks=pytest.mark.slow, id="2-long"),
        pytest.param(3, EAGER, THREE, marks=pytest.mark.slow, id="3"),
        pytest.param(2, "cases_inductor", INDUCTOR, marks=pytest.mark.slow, id="2-inductor"),
        pytest.param(2, "cases_recomputed", (), marks=pytest.mark.heavy, id="2-recomputed"),
        pytest.param(2, "cases_inductor", (), marks=pytest.mark.heavy, id="2-inductor-every"),
        pytest.param(3, EAGER, (), marks=pytest.mark.heavy, id="3-every"),
        pytest.param(3, f"{COMPILED}+cases_inductor", (), marks=pytest.mark.heavy, id="3-compiled"),
        pytest.param(4, f"{EAGER}+{COMPILED}", (), marks=pytest.mark.heavy, id="4"),
    ],
)
def test_ranks(world: int, modules: str, names: tuple[str, ...]) -> None:
    run_cases(modules, world, *names, timeout=1200)


def test_a_world_of_one_costs_nothing() -> None:
    run_cases("cases_alone", 1)


def test_without_peers_it_is_local() -> None:
    x, mean, var = torch.randn(4, 3, 5), torch.zeros(3), torch.ones(3)
    expected_mean, expected_var = mean.clone(), var.clone()
    expected = F.batch_norm(x, expected_mean, expected_var, None, None, True, 0.3)
    assert torch.equal(bnfx.sync_batch_norm(x, mean, var, momentum=0.3), expected)
    assert torch.equal(mean, expected_mean)
    assert torch.equal(var, expected_var)


def test_a_computed_momentum_is_local_too() -> None:
    x, mean, var = torch.randn(4, 3, 5), torch.zeros(3), torch.ones(3)
    expected_mean, expected_var = mean.clone(), var.clone()
    expected = F.batch_norm(x, expected_mean, expected_var, None, None, True, 0.25)
    assert torch.equal(bnfx.sync_batch_norm(x, mean, var, momentum=torch.tensor(0.25)), expected)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(var, expected_var)
