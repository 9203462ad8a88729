"""The wheel holds every module, under the right names and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules_of_the_tree() -> set[str]:
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "bnfx").glob("**/*.py")}
    rewrites = {
        str(Path("bnfx") / path.relative_to(ROOT)) for path in (ROOT / "passes").glob("**/*.py")
    }
    return ours | rewrites


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.splitlines():  # a copy: building leaves build/ behind
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).exists():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(source)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if name.endswith(".py")}
    assert inside == modules_of_the_tree()
    assert "bnfx/passes/algebra/affine.py" in inside
    parts = {path.name for path in (ROOT / "bnfx/report/page/parts").iterdir()}
    folder = "bnfx/report/page/parts/"
    assert {n.removeprefix(folder) for n in wheel.namelist() if n.startswith(folder)} == parts


def test_wheel_is_typed_licensed_and_registered(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "bnfx/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    text = wheel.read(entry_points).decode()
    assert "[torch_dynamo_backends]\nbnfx = bnfx.backend:bnfx" in text
    assert "[console_scripts]\nbnfx = bnfx.cli:app" in text
