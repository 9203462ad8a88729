"""Runs every program of this folder, and writes what they print into docs/compare.md.

python docs/compare/run.py          # writes the table anew
python docs/compare/run.py --print  # prints it

Rows of a peer that is not installed here stay as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "compare.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
UNREAD = "does not read ONNX"
PROGRAMS = sorted(each for each in HERE.glob("*.py") if each.name not in ("common.py", "run.py"))


def rows(program: Path) -> Iterator[dict[str, str]]:
    """The cases of one program, which runs in a process of its own."""
    done = subprocess.run([sys.executable, program.name], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise SystemExit(f"{program.name} failed: {''.join(last)}")
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield {**json.loads(line), "program": program.name}


def kept(program: str, page: str) -> Iterator[dict[str, str]]:
    """The page's rows of this program on peers that are not installed."""
    row = rf"^\| (.*) \| (.*) \| (.*) \| (.*) \| \[{re.escape(program)}\]"
    for peer, case, theirs, ours in re.findall(row, page, re.MULTILINE):
        package = re.search(r"\((\S+) [^)]*\)$", peer)
        assert package is not None, f"{peer} has no package and version"
        try:
            metadata.version(package[1])
        except metadata.PackageNotFoundError:
            print(f"{peer} is not installed: its row stays as it is", file=sys.stderr)
            bnfx = "" if ours == UNREAD else ours
            yield {"peer": peer, "case": case, "theirs": theirs, "bnfx": bnfx, "program": program}


def table(found: list[dict[str, str]]) -> str:
    """The cases as Markdown."""
    head = ("peer", "case", "its answer is off by", "bnfx's by", "program")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in found:
        link = f"[{row['program']}](compare/{row['program']})"
        cells = (row["peer"], row["case"], row["theirs"], row["bnfx"] or UNREAD, link)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    page = PAGE.read_text()
    text = table([row for each in PROGRAMS for row in (*rows(each), *kept(each.name, page))])
    if "--print" in sys.argv:
        print(text)
        return
    PAGE.write_text(TABLE.sub(lambda _: text, page))


if __name__ == "__main__":
    main()
