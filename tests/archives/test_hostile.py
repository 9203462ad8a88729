"""No file runs, imports, writes or loads anything; each is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from archives.hostile import write_all
from processes import run_apart

pytestmark = pytest.mark.slow
MADE = ("names", "results", "net.py", "out.pt2")  # by the canary
CANARY = Path(__file__).with_name("canary.py")


def watched(folder: Path, names: Sequence[str], **environment: str) -> list[dict]:
    """What the command did with each file, in one child."""
    (folder / "names").write_text("\n".join(names))
    child = run_apart([str(CANARY), "results"], folder, **environment)
    assert child.returncode == 0, child.stderr[-3000:]
    return [json.loads(line) for line in (folder / "results").read_text().splitlines()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("hostile")
    return folder, write_all(folder)


@pytest.fixture(scope="module")
def hostile(files: tuple[Path, dict[str, str]]) -> dict[str, dict]:
    folder, what = files
    before = sorted(folder.iterdir())
    rows = {what[row["name"]]: row for row in watched(folder, list(what))}
    after = [p for p in sorted(folder.iterdir()) if p.name not in MADE]
    assert after == before, "something was written"
    return rows


def test_hostile_files_are_refused_in_one_line(hostile: dict[str, dict]) -> None:
    wrong = [
        f"{what}: {row['status']} {row['stderr']!r} {row['raised']}"
        for what, row in hostile.items()
        if row["status"] != 2 or len(row["stderr"].strip().splitlines()) != 1
    ]
    assert not wrong, "\n".join(wrong)
    print(f"{len(hostile)} hostile files, all refused")


def test_each_point_of_an_archive_is_met(hostile: dict[str, dict]) -> None:
    """A file that is refused for another reason than the one it was made for proves nothing."""
    for what, reason in {
        "archive: duplicate": "two of its entries are named",
        "archive: overlapping": "overlaps another",
        "archive: encrypted": "is encrypted",
        "archive: another method": "is compressed",
        "archive: far away": "overlaps another, or lies outside",
        "archive: beyond the file": "overlaps another, or lies outside",
        "archive: before the file": "overlaps another, or lies outside",
        "archive: symbolic link": "is not a plain file",
        "archive: bomb": "is compressed",
        "archive: two folders": "are not in one folder",
        "archive: far too many": "is too long",
        "archive: a damaged weight": "is damaged",
        "archive: old zip with code": "holds pickled code",
        "checkpoint: doubling, a name": "is not the memory of a tensor",
        "checkpoint: doubling, a key": "has the key",
        "checkpoint: doubling, an item": "has the key",
        "checkpoint: doubling, a value": "holds no state dict",
        "checkpoint: a large number as key": "a number of 39999 bits",
        "checkpoint: many dimensions": "too many dimensions",
        "checkpoint: many sets": "its pickle is too long",
        "checkpoint: lying about length": "longer than its bytes",
        "checkpoint: a giant": "longer than its bytes",
        "sample inputs, doubling": "too many, or too deep",
        "sample inputs, in itself": "too many, or too deep",
        "name, torch": "'torch' stands where a name belongs",
        "output name, torch": "'torch' stands where a name belongs",
        "parameter, class": "stands where a parameter's name belongs",
        "target os": "'torch.os.mkdir', which is not an operator",
        "target from_file": "is not among the allowed operators",
        "expression": "is not a function of sizes",
        "expression, comment": "is not an expression of sizes",
        "guard": "is not a condition",
        "tree, defaultdict": "are not allowed",
        "opaque constant": "is not one of an exported program",
        "pickled weight": "constants is pickled",
    }.items():
        assert reason in hostile[what]["stderr"], (what, hostile[what]["stderr"])


def test_hostile_files_run_nothing(hostile: dict[str, dict]) -> None:
    tripped = {what: row["tripped"] for what, row in hostile.items() if row["tripped"]}
    assert not tripped


def test_hostile_files_take_little_memory(hostile: dict[str, dict]) -> None:
    assert max(row["grown"] for row in hostile.values()) < 400, "MiB, the largest file has 250"


def test_the_canary_trips(files: tuple[Path, dict[str, str]], hostile: dict[str, dict]) -> None:
    """Where torch loads the same files as it does by itself, so that the tests above can fail."""
    folder, what = files
    wanted = {
        *("opaque constant", "pickled weight", "sample inputs", "old weights", "library"),
        *("expression", "expression in a call", "guard, or", "target os", "tree, enum"),
        *("tree, defaultdict", "name of code", "checkpoint: code", "checkpoint: eval"),
    }
    names = [name for name, each in what.items() if each in wanted]
    assert len(names) == len(wanted)
    rows = watched(folder, names, CANARY_TORCH="1")
    silent = [what[row["name"]] for row in rows if not row["tripped"]]
    print(f"{len(rows) - len(silent)} of {len(rows)} ran something; not {silent}")
    assert len(silent) <= 5
