"""Run as a child with a limit: ``memory`` while it folds, or ``disk`` while it writes."""

from __future__ import annotations

import resource
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import bnfx

MIB = 2**20


def memory() -> None:
    """Fold with too little memory for a second copy of the weights; then with enough."""
    model = nn.Sequential(nn.Linear(4096, 4096), nn.BatchNorm1d(4096)).eval()
    x = torch.randn(4, 4096)
    with torch.no_grad():
        expected = model(x)
        small = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
        bnfx.fold(small, torch.randn(2, 8))  # imports and caches are there
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + 48 * MIB, hard))
    try:
        folded = bnfx.fold(model, x)
        outcome = "folded"
    except (MemoryError, RuntimeError, bnfx.BnfxError) as error:
        folded, outcome = model, f"raised {type(error).__name__}: {error}".splitlines()[0]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    with torch.no_grad():
        assert torch.equal(model(x), expected), "the model was changed"
        assert torch.allclose(folded(x), expected, atol=1e-4)
        again = bnfx.fold(model, x)
        assert torch.allclose(again(x), expected, atol=1e-4)
    assert isinstance(again, nn.Module)
    print(outcome)


def disk(report: str) -> None:
    """No file may grow beyond 40 bytes: a report does not fit."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(1, 3, 8, 8)
    options = {"inner": "eager", "report": report}
    compiled = torch.compile(model, backend="bnfx", options=options)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        actual = compiled(x)
        told = [str(w.message) for w in caught if issubclass(w.category, bnfx.ReportWarning)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with torch.no_grad():
        assert torch.allclose(actual, model(x), atol=1e-5)
    print(*told, sep="\n")


if __name__ == "__main__":
    {"memory": memory, "disk": disk}[sys.argv[1]](*sys.argv[2:])
