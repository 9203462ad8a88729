"""The house is as docs/architecture.md says: who imports whom, and where things are."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()
IRS = ("passes/fx", "passes/relax", "passes/relay")


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_house", ROOT / "docs/draw_house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = _script()
ROOMS: dict[str, int] = house.floors(PAGE)
MODULES: dict[str, str] = house.modules()
IMPORTS = list(house.imports(MODULES))


def test_arrows_run_down() -> None:
    assert house.broken(ROOMS, IMPORTS) == []


def test_an_arrow_up_is_seen() -> None:
    up = house.Import("passes/algebra/affine", "passes/rules/cost")
    across = house.Import("passes/relax/lift", "passes/relay/lift")
    assert len(house.broken(ROOMS, [up, across])) == 2


def test_every_module_is_in_a_room_and_every_room_is_there() -> None:
    here = {house.room_of(place, ROOMS) for place in MODULES.values()}
    assert here == set(ROOMS)


def test_the_picture_is_todays() -> None:
    """If not: python docs/draw_house.py."""
    assert house.PICTURE.search(PAGE).group() == house.picture(ROOMS, IMPORTS)


def test_no_circles() -> None:
    """Not even through imports that wait until a function is called."""
    below: dict[str, set[str]] = {place: set() for place in MODULES.values()}
    for module, imported in IMPORTS:
        below[module].add(imported)
    circles = [place for place in below if place in house._reached(below, place)]
    assert circles == []


def test_a_wheel_has_every_folder() -> None:
    """``pyproject.toml`` lists them: what is missing there is missing from what users install."""
    found = re.search(r"^packages = (\[.*?^\])", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert found is not None
    listed = ast.literal_eval(found[1])
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("bnfx/**/*.py")}
    folders |= {"bnfx" / path.parent.relative_to(ROOT) for path in ROOT.glob("passes/**/*.py")}
    assert sorted(listed) == sorted({".".join(folder.parts) for folder in folders})


def test_a_file_name_occurs_once() -> None:
    """The IRs mirror one another; else one name is one thing."""
    names = Counter(
        Path(place).name
        for place in MODULES.values()
        if not place.startswith(IRS) and not place.endswith("__init__")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_no_folder_is_crowded() -> None:
    places = (Path(place) for place in MODULES.values())
    files = Counter(str(place.parent) for place in places if place.name != "__init__")
    assert {folder: count for folder, count in files.items() if count > 14} == {}


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`((?:bnfx|passes)/[\w/.]+)", PAGE))))
def test_paths_are_there(place: str) -> None:
    assert (ROOT / place).exists() or (ROOT / f"{place}.py").exists()


NAMED = re.findall(r"`([\w/]+\.py): (\w+)`", PAGE)


@pytest.mark.parametrize(("place", "name"), NAMED, ids=[" ".join(each) for each in NAMED])
def test_names_are_there(place: str, name: str) -> None:
    tree = ast.parse((ROOT / place).read_text())
    defined = {node.name for node in tree.body if hasattr(node, "name")}
    targets = (getattr(node, "targets", [getattr(node, "target", None)]) for node in tree.body)
    assigned = {t.id for each in targets for t in each if isinstance(t, ast.Name)}
    assert name in defined | assigned
