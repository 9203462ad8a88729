"""Draws docs/architecture.md's picture from the imports of the code, and checks its rules.

    python docs/draw_house.py          # writes the picture anew
    python docs/draw_house.py --check  # prints what breaks the table's rules; exit status 1 if any

The page's table lists the rooms, each on a floor. A module may import from its own room and from
rooms on lower floors, at its top or later; imports for type checkers alone do not count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
ROW = re.compile(r"^\| (\d+) \| `([^`]+)` \| ", re.MULTILINE)
PICTURE = re.compile(r"(?<=<!-- picture -->\n).*?(?=<!-- end of picture -->)", re.DOTALL)


class Import(NamedTuple):
    """``module`` imports ``imported``, both by their paths in the repository."""

    module: str
    imported: str


def floors(page: str) -> dict[str, int]:
    """Room (a path without ``.py``) -> floor, in the order of the table."""
    rows = ROW.findall(page)
    assert len({room for _, room in rows}) == len(rows), "a room stands in the table twice"
    return {room: int(floor) for floor, room in rows}


def modules(root: Path = ROOT) -> dict[str, str]:
    """Dotted name -> path without ``.py``, of every module."""
    found = {}
    for path in sorted([*(root / "bnfx").glob("**/*.py"), *(root / "passes").glob("**/*.py")]):
        place = path.relative_to(root).with_suffix("").as_posix()
        if place.startswith("bnfx/passes/"):  # the link to passes/
            continue
        dotted = place.replace("/", ".").removesuffix(".__init__")
        found[dotted if dotted.startswith("bnfx") else f"bnfx.{dotted}"] = place
    return found


def imports(known: dict[str, str], root: Path = ROOT) -> Iterator[Import]:
    """Every import of one module of ours by another."""
    for module, place in known.items():
        tree = ast.parse((root / f"{place}.py").read_text())
        for name in _names(tree.body, known):
            if name != module:
                yield Import(place, known[name])


def _names(body: list[ast.stmt], known: dict[str, str]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                name = full if full in known else str(node.module)
                if name in known:
                    yield name
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _names(node.orelse, known)
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _names(getattr(node, part, []), known)
            for handler in getattr(node, "handlers", []):
                yield from _names(handler.body, known)


def room_of(place: str, rooms: dict[str, int]) -> str:
    """The room with the longest name that ``place`` is in.

    Raises:
        KeyError: if the table has none.
    """
    here = [room for room in rooms if place == room or place.startswith(f"{room}/")]
    if not here:
        raise KeyError(f"{place} is in no room of {PAGE.name}'s table")
    return max(here, key=len)


def broken(rooms: dict[str, int], found: list[Import]) -> list[str]:
    """What goes up, or across a floor."""
    wrong = []
    for module, imported in found:
        here, there = room_of(module, rooms), room_of(imported, rooms)
        if here != there and rooms[there] >= rooms[here]:
            wrong.append(f"{module} (floor {rooms[here]}) imports {imported} ({rooms[there]})")
    return sorted(set(wrong))


def picture(rooms: dict[str, int], found: list[Import]) -> str:
    """The rooms by floors as a Mermaid diagram, without arrows that follow from others."""
    below: dict[str, set[str]] = {room: set() for room in rooms}
    for module, imported in found:
        here, there = room_of(module, rooms), room_of(imported, rooms)
        if here != there:
            below[here].add(there)
    names = {room: re.sub(r"\W", "_", room) for room in rooms}
    lines = ["```mermaid", "flowchart TD"]
    for floor in sorted(set(rooms.values()), reverse=True):
        here = [f'{names[room]}["{room}"]' for room in rooms if rooms[room] == floor]
        lines += [f'  subgraph floor{floor}["{floor}"]', "    direction LR"]
        lines += [*(f"    {each}" for each in here), "  end"]
    for room, others in below.items():
        for other in sorted(others):
            if not any(other in _reached(below, via) for via in others - {other}):
                lines.append(f"  {names[room]} --> {names[other]}")
    return "\n".join([*lines, "```", ""])


def _reached(below: dict[str, set[str]], room: str) -> set[str]:
    reached, todo = set[str](), [room]
    while todo:
        for other in below[todo.pop()] - reached:
            reached.add(other)
            todo.append(other)
    return reached


def main() -> int:
    page = PAGE.read_text()
    rooms, found = floors(page), list(imports(modules()))
    wrong = broken(rooms, found)
    print("\n".join(wrong), end="\n" if wrong else "")
    if "--check" not in sys.argv:
        drawn = picture(rooms, found)
        PAGE.write_text(PICTURE.sub(lambda _: drawn, page))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
