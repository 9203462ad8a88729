"""Runs every program of this folder, and writes what they print into docs/compare.md.

python docs/compare/run.py          # writes the table anew
python docs/compare/run.py --print  # prints it
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "compare.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
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


def table(found: list[dict[str, str]]) -> str:
    """The cases as Markdown."""
    head = ("peer", "case", "its answer is off by", "bnfx's by", "program")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in found:
        link = f"[{row['program']}](compare/{row['program']})"
        cells = (row["peer"], row["case"], row["theirs"], row["bnfx"] or "does not read ONNX", link)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = table([row for program in PROGRAMS for row in rows(program)])
    if "--print" in sys.argv:
        print(text)
        return
    PAGE.write_text(TABLE.sub(lambda _: text, PAGE.read_text()))


if __name__ == "__main__":
    main()
