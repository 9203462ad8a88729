"""An ExportedProgram in, an ExportedProgram out: same inputs, same outputs, fewer parameters."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from support import randomise, relative
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

import bnfx
from bnfx.passes.refusals import Code


class Net(nn.Module):
    """Writes to a buffer and to an input, branches, and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.up, self.bn2 = nn.ConvTranspose2d(8, 6, 3, groups=2), nn.BatchNorm2d(6)
        self.fc, self.bn3 = nn.Linear(6, 4), nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict]:
        self.calls.add_(1)
        y.mul_(2)
        hidden = self.bn2(self.up(torch.relu(self.bn(self.conv(x)))))
        hidden = torch.cond(hidden.sum() > 0, torch.sin, torch.cos, (hidden,))
        answer = self.bn3(self.fc(hidden.mean((2, 3))))
        return answer, {"shifted": hidden + y, "calls": self.calls + 1}


def net() -> nn.Module:
    return randomise(Net().double()).eval()


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, 9, 9).double(), torch.ones(1).double()


def export(model: nn.Module) -> ExportedProgram:
    dynamic = {"x": {0: Dim("batch", min=1, max=99)}, "y": None}
    with torch.no_grad():  # else Dynamo reads .grad of what torch.cond is given, and torch warns
        return torch.export.export(model, inputs(), dynamic_shapes=dynamic)


FORMS = {
    "training": lambda program: program,
    "decomposed": lambda program: program.run_decompositions(),
    "functional": lambda program: program.run_decompositions({}),
}


def norms(program: ExportedProgram) -> int:
    calls = program.graph.nodes
    return sum(n.op == "call_function" and "batch_norm" in str(n.target) for n in calls)


def reload(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_round_trip(form: str) -> None:
    model = net()
    program = FORMS[form](export(model))
    code, names = program.graph_module.code, set(program.state_dict)
    folded = bnfx.fold(program)
    assert program.graph_module.code == code
    assert set(program.state_dict) == names
    assert norms(program) == 3
    assert norms(folded) == 0
    loaded = reload(folded)
    assert set(loaded.state_dict) == {"calls"} | {
        f"{layer}.{part}" for layer in ("conv", "up", "fc") for part in ("weight", "bias")
    }
    for batch in (2, 5):
        x, y = inputs(batch)
        ours, theirs = y.clone(), y.clone()
        module = reload(loaded).module()  # its buffers are the program's own
        with torch.no_grad():
            expected = copy.deepcopy(model)(x, theirs)
            actual = module(x, ours)
        assert relative(actual[0], expected[0]) < 1e-12
        assert relative(actual[1]["shifted"], expected[1]["shifted"]) < 1e-12
        assert actual[1]["calls"] == expected[1]["calls"]
        assert torch.equal(ours, theirs)
        assert module.calls == 1
    with pytest.raises(AssertionError, match="Guard failed"):
        loaded.module()(*inputs(100))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("form", FORMS)
def test_signature_stays_but_for_what_was_folded(form: str) -> None:
    program = FORMS[form](export(net()))
    folded = bnfx.fold(program)
    before, after = program.graph_signature, folded.graph_signature
    assert after.user_inputs == before.user_inputs
    kinds = [spec.kind for spec in before.output_specs]
    assert [spec.kind for spec in after.output_specs] == kinds
    mutated = form != "training"  # there, a write is a node
    assert (OutputKind.USER_INPUT_MUTATION in kinds) is mutated
    assert folded.range_constraints == program.range_constraints
    assert folded.dialect == program.dialect
    assert folded.call_spec == program.call_spec
    used = {spec.target for spec in after.input_specs if spec.target}
    assert used == set(folded.state_dict)
    targets = {node.target for node in folded.graph.nodes if node.op == "call_function"}
    if form == "decomposed":
        aten = torch.ops.aten
        assert aten.convolution.default in targets
        assert not targets & {aten.conv2d.default, aten.linear.default, aten.batch_norm.default}


def test_nothing_to_fold_is_a_copy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    x = torch.randn(1, 3, 4, 4)
    program = torch.export.export(model, (x,)).run_decompositions()
    folded = bnfx.fold(program)
    assert folded.graph_module.code == program.graph_module.code
    with torch.no_grad():
        folded.state_dict["0.weight"].zero_()
        assert relative(program.module()(x), model(x)) < 1e-6


def test_lowered_batch_norms_are_aten() -> None:
    model = randomise(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))).eval()
    x = torch.randn(2, 3, 5, 5)
    for form in FORMS.values():
        program = form(torch.export.export(model, (x,)))
        folded = reload(bnfx.fold(program, x, verify=True))
        assert norms(folded) == 0
        with torch.no_grad():
            assert relative(folded.module()(x), model(x)) < 1e-6


def test_a_computed_weight_has_its_layers_name() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    model = randomise(nn.Sequential(conv, nn.BatchNorm2d(4)).double()).eval()
    x = torch.randn(2, 3, 6, 6).double()
    folded = bnfx.fold(torch.export.export(model, (x,)))
    state = folded.state_dict
    assert state["0.weight"].shape == (4, 3, 3, 3)
    assert state["0.bias"].shape == (4,)
    with torch.no_grad():
        assert relative(reload(folded).module()(x), model(x)) < 1e-12


def test_a_weight_read_elsewhere_keeps_its_value() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            read = self.conv.weight.sum() + self.bn.running_mean.sum()
            return self.bn(self.conv(x)) + (read * x.mean()).sin()

    model, x = randomise(Reading().double()).eval(), torch.randn(2, 3, 4, 4).double()
    folded = bnfx.fold(torch.export.export(model, (x,)))
    assert norms(folded) == 0
    assert {"conv.weight", "conv.weight_folded1"} <= set(folded.state_dict)
    with torch.no_grad():
        assert relative(reload(folded).module()(x), model(x)) < 1e-12


def test_statistics_that_the_program_writes_are_no_constants() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.bn.running_mean.add_(1)
            return self.bn(self.conv(x))

    x = torch.randn(2, 3, 4, 4)
    for form in FORMS.values():
        program = form(torch.export.export(randomise(Counting()).eval(), (x,)))
        report = bnfx.explain(program)
        assert report.count("folded") == 0
        assert norms(bnfx.fold(program)) == 1


def test_options() -> None:
    program = export(net())
    with pytest.raises(bnfx.OptionError, match="has no modules"):
        bnfx.fold(program, keep="module")
    assert norms(bnfx.fold(program, rules="none")) == 3
    bnfx.fold(program, *inputs(), verify=1e-12)
    assert bnfx.explain(program).count("folded") == 3


class UpdatesBeforeItReads(nn.Module):
    """Its first op writes to the running statistics that the second reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = self.bn.running_mean, self.bn.running_var
        batch = nn.functional.batch_norm(x, mean, var, training=True, momentum=0.5)
        return batch + self.bn(self.conv(x))


def test_statistics_that_another_op_updates_are_not_folded() -> None:
    """The schema of aten.batch_norm does not tell that it writes, nor does the signature."""
    model, x = randomise(UpdatesBeforeItReads().double()).eval(), torch.randn(4, 3, 5, 5).double()
    program = torch.export.export(copy.deepcopy(model), (x,))
    folded, first = bnfx.fold(program).module(), model(x)
    assert torch.equal(folded(x), first)
    for _ in range(2):
        expected = model(x)
        assert relative(first, expected) > 1e-3, "the update must matter"
        assert relative(folded(x), expected) < 1e-12
    codes = {r.code for verdict in bnfx.explain(program).verdicts for r in verdict.refusals}
    assert codes == {Code.TRAINING_MODE, Code.MUTATED_IN_GRAPH}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv, self.bn = Inner(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(self.inner(x)))


@pytest.mark.parametrize("kept", [("inner",), ("inner.conv",), ("inner.bn", "conv")])
def test_a_folded_program_unflattens(kept: tuple[str, ...]) -> None:
    model, x = randomise(Outer().double()).eval(), torch.randn(2, 3, 6, 6).double()
    program = torch.export.export(model, (x,), preserve_module_call_signature=kept)
    again = torch.export.unflatten(bnfx.fold(program))
    with torch.no_grad():
        assert relative(again(x), model(x)) < 1e-12
