"""Pages of reports, and a real Chromium to open them in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import randomise
from torch import nn

import bnfx

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Sample(nn.Module):
    """Each verdict, a branch, a layer in poor health, and a name that no page may run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)
        self.left_norm = nn.BatchNorm2d(4, eps=1e-2, momentum=0.99)
        self.lowered = nn.BatchNorm2d(8)
        self.merged = nn.BatchNorm2d(8)
        self.kept = nn.BatchNorm2d(8, track_running_stats=False)
        self.add_module("<script>alert(1)</script>", nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x / 255)))
        x = torch.cat([self.left_norm(self.left(x)), self.right(x)], 1).relu()
        x = self.kept(self.merged(self.lowered(x)).relu())
        return self._modules["<script>alert(1)</script>"](x.sigmoid())


def sample() -> nn.Module:
    model = randomise(Sample())
    with torch.no_grad():
        model.norm.weight[2] = 0
        model.norm.running_var[:3] = 1e-9
        model.norm.num_batches_tracked.fill_(7)
        model.right.weight[1] = 4e4
    return model.eval()


@pytest.fixture(scope="session")
def report() -> bnfx.Report:
    return bnfx.explain(sample(), torch.randn(2, 3, 9, 9))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, headless; ``BNFX_REQUIRE_BROWSER=1`` makes it an error that there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        if os.environ.get("BNFX_REQUIRE_BROWSER"):
            raise RuntimeError("no Chromium: install Debian's package chromium")
        pytest.skip("no Chromium here: install Debian's package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


class Opened:
    """A page that was opened, and what its console said and it asked the network for."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        page.goto(path.as_uri())

    def settle(self) -> None:
        """Wait for what comes in later frames."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))"
        )


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """A function that opens HTML at a width, in a colour scheme; errors fail the test."""
    seen: list[Opened] = []

    def open_(html: str, width: int = 1280, scheme: str = "light", **more: Any) -> Opened:
        path = tmp_path / f"page{len(seen)}.html"
        path.write_text(html, encoding="utf-8")
        size = {"width": width, "height": 860}
        page = browser.new_page(viewport=size, color_scheme=scheme, **more)
        seen.append(Opened(page, path))
        return seen[-1]

    yield open_
    for each in seen:
        each.page.close()
        assert each.complaints == []
        outside = [url for url in each.requests if not url.startswith(("file:", "data:", "blob:"))]
        assert outside == []
