"""bnfx explain, fold, doctor: right files, or one line and none."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from runtimes import package_error
from support import DRAWS, relative
from typer.testing import CliRunner, Result

from bnfx.cli import app
from bnfx.cli.doctor import examine
from bnfx.torch_versions import NEWEST, OLDEST, doubt

ROOT = Path(__file__).parents[2]
NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    model[1].weight.data.uniform_(-2, 2)
    return model

def wrong():
    return 3

class Control(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def control():
    return Control()

def tokens():
    return nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 5), nn.Flatten(0, 1), nn.BatchNorm1d(5))

def broken():
    raise RuntimeError("no such luck")

def leaves():
    raise SystemExit(0)

class Leaves(nn.Module):
    def forward(self, x):
        raise SystemExit

def leaves_later():
    return Leaves()

def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4))

def empty():
    with torch.device("meta"):
        return make()
"""
SHAPE = ("--input", "2x3x8x8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bnfx(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def make() -> torch.nn.Module:
    names: dict = {}
    exec(NET, names)
    return names["make"]()


def test_explain(folder: Path) -> None:
    result = bnfx("explain", "net.py:make", *SHAPE)
    assert result.exit_code == 0, result.output
    assert "1 BatchNorm: 1 folded" in result.stdout
    report = json.loads(bnfx("explain", "net.py:make", "--json", "--dtype", "float64").stdout)
    assert report["summary"]["folded"] == 1
    assert "20 BatchNorms: 20 folded" in bnfx("explain", "torchvision:resnet18").stdout
    assert "BatchNorm" in bnfx("explain", "timm:resnet18", "--input", "1x3x32x32").stdout


def test_fold_writes_a_program(folder: Path) -> None:
    result = bnfx("fold", "net.py:make", "out.pt2", *SHAPE)
    assert result.exit_code == 0, result.output
    assert "written to out.pt2" in result.stdout
    program = torch.export.load("out.pt2")
    assert set(program.state_dict) == {"0.weight", "0.bias"}
    model, x = make().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert relative(program.module()(x), model(x)) < 1e-5
    assert "no BatchNorm in the graph" in bnfx("explain", "out.pt2").stdout
    again = json.loads(bnfx("fold", "out.pt2", "again.pt2", "--json").stdout)
    assert again["summary"]["folded"] == 0
    written = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert written == {"again.pt2", "net.py", "out.pt2"}


@pytest.mark.heavy  # as tests/export/test_package.py does, through the command
def test_fold_writes_a_package(folder: Path) -> None:
    result = bnfx("fold", "net.py:make", "out.pt2", "--aot", *SHAPE)
    assert result.exit_code == 0, result.output
    assert package_error(folder / "out.pt2", make().eval(), torch.randn(2, 3, 8, 8)) < 1e-5
    with zipfile.ZipFile("out.pt2") as archive:
        assert not any(b"running_mean" in archive.read(name) for name in archive.namelist())


def test_a_package_has_its_suffix(folder: Path) -> None:
    refused = bnfx("fold", "net.py:make", "out.onnx", "--aot", *SHAPE)
    assert refused.exit_code == 2
    assert "must end in .pt2" in refused.stderr


def test_a_bar_moves_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = bnfx("fold", "net.py:make", "out.pt2", *SHAPE)
    assert silent.stderr == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    result = bnfx("fold", "net.py:make", "out.pt2", *SHAPE)
    assert result.exit_code == 0, result.output
    assert re.search(r"4/5.*writing", result.stderr)
    assert result.stdout == silent.stdout


def test_fold_writes_onnx(folder: Path) -> None:
    result = bnfx("fold", "net.py:make", "out.onnx", *SHAPE)
    assert result.exit_code == 0, result.output
    ops = [node.op_type for node in onnx.load("out.onnx").graph.node]
    assert "Conv" in ops
    assert "BatchNormalization" not in ops


PADDED = """
from torch import nn
def make(): return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1))
"""


@pytest.mark.parametrize("shape", ["2x3x8x8", "Nx3x8x8", "Nx3xHxW"])
def test_explain_and_fold_say_the_same(tmp_path: Path, shape: str) -> None:
    net = tmp_path / "padded.py"
    net.write_text(PADDED)
    explained = bnfx("explain", f"{net}:make", "--input", shape, "--json")
    folded = bnfx("fold", f"{net}:make", str(tmp_path / "out.pt2"), "--input", shape, "--json")
    assert explained.exit_code == folded.exit_code == 0, explained.output + folded.output
    said = [json.loads(each.stdout)["graphs"][0]["verdicts"] for each in (explained, folded)]
    ends = [[(v["name"], v["outcome"], v["refusals"]) for v in each] for each in said]
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_open_dimensions_of_onnx_have_the_letters_of_the_call(folder: Path) -> None:
    assert bnfx("fold", "net.py:make", "out.onnx", "--input", "Nx3x8x8").exit_code == 0
    (given,) = onnx.load("out.onnx").graph.input
    names = [dim.dim_param for dim in given.type.tensor_type.shape.dim]
    assert names == ["N", "", "", ""]


def test_an_open_dimension(folder: Path) -> None:
    result = bnfx("fold", "net.py:make", "out.pt2", "--input", "Nx3x8x8")
    assert result.exit_code == 0, result.output
    program, model, x = torch.export.load("out.pt2"), make().eval(), torch.randn(7, 3, 8, 8)
    with torch.no_grad():
        assert relative(program.module()(x), model(x)) < 1e-5


def test_inputs_of_integers(folder: Path) -> None:
    report = bnfx("explain", "net.py:tokens", "--input", "2x3:int64", "--json")
    assert json.loads(report.stdout)["summary"]["folded"] == 1


def test_weights(folder: Path) -> None:
    other = make()
    with torch.no_grad():
        other[0].weight.mul_(-3)
    torch.save(other.state_dict(), "w.pt")
    safetensors.torch.save_file(other.state_dict(), "w.safetensors")
    x = torch.randn(2, 3, 8, 8)
    wrapped = {f"module.{key}": value for key, value in other.state_dict().items()}
    torch.save({"state_dict": wrapped}, "ddp.pt")
    torch.save({"model": other.state_dict(), "epoch": 3}, "epoch.pt")
    torch.save({"teacher": make().state_dict(), "ema": other.state_dict()}, "two.pt")
    key = ("--weights-key", "ema")
    for weights in (("w.pt",), ("w.safetensors",), ("ddp.pt",), ("epoch.pt",), ("two.pt", *key)):
        result = bnfx("fold", "net.py:make", "out.pt2", "--weights", *weights, *SHAPE)
        assert result.exit_code == 0, result.output
        with torch.no_grad():
            assert relative(torch.export.load("out.pt2").module()(x), other.eval()(x)) < 1e-5


class Evil:
    """Pickled code: loading it the old way makes a file."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("evil",))


def spoil(name: str) -> None:
    """Write a file that is not what its name says."""
    if name.startswith("cut"):
        whole = Path("whole" + Path(name).suffix)
        if name.endswith(".pt2"):
            torch.export.save(torch.export.export(make(), (torch.randn(2, 3, 8, 8),)), whole)
        elif name.endswith(".safetensors"):
            safetensors.torch.save_file(make().state_dict(), whole)
        else:
            torch.save(make().state_dict(), whole)
        data = whole.read_bytes()
        whole.unlink()
        Path(name).write_bytes(data[: len(data) // 2])
    elif name == "code.pt2":
        program = torch.export.export(make().eval(), (torch.randn(2, 3, 8, 8),))
        torch.export.save(program, "plain.pt2")
        code = io.BytesIO()
        torch.save(Evil(), code)
        with zipfile.ZipFile("plain.pt2") as old, zipfile.ZipFile(name, "w") as new:
            for entry in old.namelist():
                new.writestr(
                    entry, code.getvalue() if "sample_inputs" in entry else old.read(entry)
                )
        Path("plain.pt2").unlink()
    elif name == "aot.pt2":
        with zipfile.ZipFile(name, "w") as file:
            file.writestr("aot/data/aotinductor/model/model.so", b"")
    elif name.startswith("code"):
        torch.save({"0.weight": Evil()}, name)
    elif name == "meta.pt":
        torch.save({key: value.to("meta") for key, value in make().state_dict().items()}, name)
    elif name == "list.pt":
        torch.save([1, 2], name)
    elif name == "other.pt":
        torch.save({"a": torch.ones(2)}, name)
    elif name == "part.pt":
        torch.save({f"net.{key}": value for key, value in make().state_dict().items()}, name)
    elif name == "two.pt":
        torch.save({"teacher": make().state_dict(), "ema": make().state_dict(), "epoch": 3}, name)
    elif name == "epoch.pt":
        torch.save({"epoch": 3, "seed": 7}, name)
    elif name.startswith("text"):
        Path(name).write_text("hello")


BAD = {
    "missing weights": (("net.py:make", "--weights", "gone.pt"), "gone.pt is not a file"),
    "cut weights": (("net.py:make", "--weights", "cut.pt"), "cut off"),
    "cut safetensors": (("net.py:make", "--weights", "cut.safetensors"), "cut off"),
    "pickled code": (("net.py:make", "--weights", "code.pt"), "pickled code, which is not run"),
    "a list": (("net.py:make", "--weights", "list.pt"), "holds no state dict"),
    "another model's": (
        ("net.py:make", "--weights", "other.pt"),
        "does not fit Sequential: it lacks 0.weight, 1.weight, 1.bias and 2 more; the model does "
        "not have a",
    ),
    "a part's": (
        ("net.py:make", "--weights", "part.pt"),
        "without 'net.' in front of each name it would fit: save the state dict of that part, "
        "model.net.state_dict()",
    ),
    "ONNX": (("net.onnx",), "bnfx reads no ONNX: name the PyTorch model that it was made of"),
    "unusual keys": (
        ("net.py:make", "--weights", "two.pt"),
        "--weights-key takes one of 'teacher', 'ema'",
    ),
    "no such key": (
        ("net.py:make", "--weights", "two.pt", "--weights-key", "student"),
        "has no state dict under 'student'",
    ),
    "no weights": (("net.py:make", "--weights", "epoch.pt"), "(its keys are 'epoch', 'seed')"),
    "text": (("net.py:make", "--weights", "text.pt"), "text.pt"),
    "cut program": (("cut.pt2",), "not an exported program, or is damaged"),
    "text program": (("text.pt2",), "not an exported program"),
    "program with code": (("code.pt2",), "not an exported program"),
    "missing program": (("gone.pt2",), "gone.pt2 is not a file"),
    "missing file": (("gone.py:make",), "gone.py is not a file"),
    "missing function": (("net.py:mak",), "did you mean 'make'"),
    "no module": (("net.py:wrong",), "returned a int, not an nn.Module"),
    "failing": (("net.py:broken",), "no such luck"),
    "leaving Python": (("net.py:leaves",), "code of the model called sys.exit(0)"),
    "leaving in a call": (("net.py:leaves_later",), "code of the model called sys.exit(None)"),
    "lazy": (("net.py:lazy",), "has a lazy layer: 0.weight gets its shape in a first call"),
    "empty": (("net.py:empty",), "has no numbers for 0.weight, which is on the meta device"),
    "empty weights": (
        ("net.py:make", "--weights", "meta.pt"),
        "has no numbers for 0.weight, 1.weight, 1.bias and 3 more, which lay on the meta device",
    ),
    "no source": (("resnet18",), "use torchvision:NAME"),
    "unknown name": (("torchvision:resnet1",), "did you mean 'resnet18'"),
    "unknown timm": (("timm:resnet1",), "timm has no model"),
    "bad shape": (("net.py:make", "--input", "2xa"), "is not a shape"),
    "wrong shape": (("net.py:make", "--input", "2x5x8x8"), "to have 3 channels, but got 5"),
    "control flow": (("net.py:control",), "needs no whole graph"),
    "a package": (("aot.pt2",), "is compiled by AOTInductor"),
    "a name alone": (("resnet18",), "did you mean torchvision:resnet18?"),
    "a file alone": (("net.py",), "did you mean net.py:make"),
    "bad dtype": (
        ("net.py:make", "--dtype", "float3"),
        "float3 is not valid: it is float32, float64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(case: str, folder: Path) -> None:
    words, message = BAD[case]
    for word in words:
        spoil(word)
    before = sorted(folder.iterdir())
    shape = () if "--input" in words else SHAPE
    result = bnfx("fold", words[0], "out.pt2", *words[1:], *shape)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_bad_outputs(folder: Path) -> None:
    for output, message in (
        ("out.txt", "must end in .pt2 or .onnx"),
        ("gone/out.pt2", "does not exist; make it first"),
    ):
        result = bnfx("fold", "net.py:make", output, *SHAPE)
        assert result.exit_code == 2
        assert message in result.stderr
    assert "say what the model takes" in bnfx("fold", "net.py:make", "out.pt2").stderr


def test_doctor() -> None:
    result = bnfx("doctor")
    assert result.exit_code == 0
    assert re.search(
        r"PyTorch +torch +yes +" + re.escape(torch.__version__.split("+")[0]), result.stdout
    )
    findings = {found["name"]: found for found in json.loads(bnfx("doctor", "--json").stdout)}
    assert findings["gloo"]["works"] is torch.distributed.is_gloo_available()
    assert findings["GPU"]["works"] is torch.cuda.is_available()
    assert all(found["detail"] for found in findings.values())


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (f"{OLDEST[0]}.{OLDEST[1]}.0+cu130", None),
        (f"{NEWEST[0]}.{NEWEST[1]}.7", None),
        (f"{NEWEST[0]}.{NEWEST[1] + 1}.0", "newer than"),
        (f"{NEWEST[0] + 1}.0.0a0+git12", "newer than"),
        (f"{OLDEST[0]}.{OLDEST[1] - 1}.1", "older than"),
        ("version unknown", None),
    ],
)
def test_torches_that_are_not_tested(version: str, says: str | None) -> None:
    why = doubt(version)
    assert why is None if says is None else str(why).startswith(says)


def test_doctor_says_whether_torch_is_tested() -> None:
    (found,) = [each for each in examine() if each.area == "PyTorch"]
    assert found.detail.partition(", ")[2] == (doubt(torch.__version__) or "")


@pytest.mark.parametrize("command", ["explain", "fold", "bench", "doctor", "demo"])
def test_help_has_an_example(command: str) -> None:
    result = bnfx(command, "--help")
    assert result.exit_code == 0
    assert f"Example: bnfx {command}" in result.stdout


def test_completion_and_no_colours_in_a_pipe(folder: Path) -> None:
    environment = {**os.environ, "_BNFX_COMPLETE": "complete_bash", "COMP_WORDS": "bnfx ex"}
    run = subprocess.run(
        [sys.executable, "-c", "from bnfx.cli import app; app(prog_name='bnfx')"],
        env={**environment, "COMP_CWORD": "1", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["explain"], run.stderr
    assert "\x1b" not in bnfx("explain", "net.py:make").output


PAGES = "".join((ROOT / page).read_text() for page in ("README.md", "docs/cli.md"))
# What measures takes minutes: test_bench.py and test_demo.py run that.
COMMANDS = re.findall(r"^(?:\$ )?(bnfx (?!bench|demo).*)$", PAGES, re.MULTILINE)


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=DRAWS if "--html" in line else ()) for line in COMMANDS]
)
def test_commands_of_the_pages(line: str, folder: Path) -> None:
    """In order of their page; what one writes, another reads."""
    if "--weights" in line:
        torch.save(make().state_dict(), "trained.pt")
    if line == "bnfx explain folded.pt2":
        program = torch.export.export(make().eval(), (torch.randn(1, 3, 8, 8),))
        torch.export.save(program, "folded.pt2")
    result = bnfx(*shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


def test_a_model_that_needs_inputs_says_how_to_give_them(folder: Path) -> None:
    done = bnfx("explain", "net.py:control")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("bnfx explain: torch.fx cannot trace Control: ")
    assert line.endswith("; say what the model takes: --input 1x3x224x224")
