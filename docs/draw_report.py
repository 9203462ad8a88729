"""Draws docs/images/report.png, the picture in README: the page of a real report, in Chromium.

    python docs/draw_report.py

Needs the extra ``test`` and Debian's package ``chromium``.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright
from timm import create_model

import bnfx

PICTURE = Path(__file__).resolve().parent / "images/report.png"
NAME = "repvgg_a0"


def main() -> None:
    torch.manual_seed(0)
    model = create_model(NAME)
    for norm in model.modules():  # as if it had been trained
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
            norm.num_batches_tracked.fill_(1000)
    report = bnfx.explain(model.eval(), torch.randn(1, 3, 224, 224))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder, "report.html")
        path.write_text(report.to_html(title=f"bnfx: timm:{NAME}"), encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 940}, color_scheme="light")
        page.goto(path.as_uri())
        page.click("#table .link >> nth=4")
        page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
        page.wait_for_timeout(500)
        PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
