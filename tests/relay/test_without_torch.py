"""The Relay path needs no torch: it is not even looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from graphs import TARGET, Make, module_of
import bnfx.tvm
make = Make(0)
body = make.batch_norm(make.conv(make.input(1, 4, 6, 6), 8, 4, 3, 3), 8)
reports = []
bnfx.tvm.build(module_of(body), TARGET, report=reports.append)
print(reports[0])
assert "torch" not in sys.modules
"""


def test_a_build_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    program = PROGRAM.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "1 BatchNorm: 1 folded" in done.stdout
