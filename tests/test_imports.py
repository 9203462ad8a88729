"""What each package may load: the algebra and the rules stand without torch, and without TVM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
FRAMEWORKS = ("torch", "tvm")


def python(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, from a folder that holds no packages."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def loaded(statement: str, cwd: Path) -> set[str]:
    """The frameworks among ``sys.modules`` after ``statement``."""
    show = f"import sys; print(*[name for name in {FRAMEWORKS} if name in sys.modules])"
    done = python(f"{statement}\n{show}", cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "statement",
    [
        "import bnfx",
        "import bnfx; dir(bnfx), bnfx.__version__",
        "import bnfx.passes",
        "import bnfx.passes.algebra",
        "import bnfx.passes.graph",
        "import bnfx.passes.rules",
        "import bnfx.passes.pipeline",
        "import bnfx.passes.pipeline, bnfx.passes.rules, bnfx.passes.graph, bnfx.passes.values",
        "import bnfx.tvm; dir(bnfx.tvm)",
    ],
)
def test_no_framework_is_loaded(statement: str, tmp_path: Path) -> None:
    assert loaded(statement, tmp_path) == set()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "statement", ["import torch", "import bnfx.passes.fx", "import bnfx.backend, bnfx.inner"]
)
def test_the_check_sees_torch_where_it_is_loaded(statement: str, tmp_path: Path) -> None:
    assert loaded(statement, tmp_path) == {"torch"}


def test_the_check_sees_tvm_where_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "tvm.py").touch()
    assert loaded("import tvm", tmp_path) == {"tvm"}


def test_rules_run_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    program = (
        "import numpy as np\n"
        "from bnfx.passes import pipeline\n"
        "from bnfx.passes.graph import Graph\n"
        "from bnfx.passes.values import Values\n"
        "from bnfx.passes.algebra import Source\n"
        "values = Values(lambda source: np.float32([2]), np.float32([0]))\n"
        "print(values.stored(Source('w', (1,), 'float32') * 3, 'float16'))\n"
        "print(len(pipeline.run(Graph(), values=values).verdicts))\n"
    )
    done = python(program, tmp_path)
    assert done.stdout.split() == ["[6.]", "0"], done.stderr


def test_relax_modules_fold_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    program = (
        "import numpy as np\n"
        "from tvm import relax\n"
        "from bnfx.passes.relax.compat import TensorType, constant\n"
        "import bnfx.tvm.relax\n"
        "x = relax.Var('x', TensorType((1, 2, 4, 4), 'float32'))\n"
        "one, ones = constant(np.ones((2, 2, 1, 1), 'float32')), constant(np.ones(2, 'float32'))\n"
        "builder = relax.BlockBuilder()\n"
        "with builder.function('main', [x]):\n"
        "    y = builder.emit(relax.op.nn.conv2d(x, one))\n"
        "    norm = (ones, ones, ones, ones)\n"
        "    y = relax.op.nn.batch_norm(y, *norm, axis=1, training=False)\n"
        "    builder.emit_func_output(builder.emit(builder.emit(y)[0]))\n"
        "fold = bnfx.tvm.relax.FoldBatchNorm()\n"
        "built = bnfx.tvm.build(fold(builder.get()), 'llvm')\n"
        "print(fold.report.count('folded'))\n"
    )
    done = python(program, tmp_path)
    assert done.stdout.split() == ["1"], done.stderr


def test_passes_refuses_its_own_plain_name(tmp_path: Path) -> None:
    assert (CHECKOUT / "passes" / "__init__.py").is_file()
    done = python(f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\nimport passes", tmp_path)
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: this package is 'bnfx.passes'")
    assert "imported as 'passes'" in message
    assert "Write 'import bnfx.passes'" in message


@pytest.mark.slow
def test_a_public_name_stays_what_it_is_whatever_is_imported(tmp_path: Path) -> None:
    """Importing a submodule sets an attribute of the package: it must not be one of these names."""
    program = (
        "import bnfx, bnfx.cli.commands, bnfx.folding.fold\n"
        "print(callable(bnfx.explain), callable(bnfx.fold))\n"
        "print([n for n in bnfx.__all__ if bnfx._HOMES.get(n) == f'bnfx.{n}'])\n"
    )
    done = python(program, tmp_path)
    assert done.stdout.split() == ["True", "True", "[]"], done.stderr
