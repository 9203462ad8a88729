"""The page in a real browser, at the width of a desk and of a phone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import bnfx
from bnfx.passes.details import GraphDetails, Op
from bnfx.passes.report import GraphReport, Outcome, Site, Verdict

Open = Callable[..., Any]
WIDTHS = pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])


@pytest.fixture(scope="module")
def html(report: bnfx.Report) -> str:
    return report.to_html()


def text(page: Any, selector: str) -> str:
    return " ".join(page.inner_text(selector).split())


@pytest.mark.one_in(9)
@WIDTHS
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_all_is_drawn(
    opened: Open, html: str, width: int, scheme: str
) -> None:
    view = opened(html, width, scheme)
    page = view.page
    page.wait_for_selector("#weights .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#before .node.marked").count() == 7
    assert page.locator("#before .node.kept").count() == 1
    assert page.locator("#scale .point").count() == 6
    # No box of the page is cut at its right edge, and no two tiles lie upon one another.
    boxes = page.evaluate(
        "[...document.querySelectorAll('.tile')].map(t => t.getBoundingClientRect().toJSON())"
    )
    for at, one in enumerate(boxes):
        assert one["right"] <= width
        for other in boxes[:at]:
            apart = one["left"] >= other["right"] or one["top"] >= other["bottom"]
            assert apart or other["left"] >= one["right"]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(20, 23, 26)") == (scheme == "dark")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


@pytest.mark.one_in(2)
@WIDTHS
def test_links_go_both_ways(opened: Open, html: str, width: int) -> None:
    view = opened(html, width)
    page = view.page
    # From the table to both graphs and the plots ...
    page.click("#table tr:has-text('left_norm') .link")
    view.settle()
    assert page.locator("#before .node.chosen title").text_content() == "left_norm (batch_norm)"
    assert page.locator("#after .node.chosen title").text_content() == "left (conv2d)"
    assert "left_norm" in text(page, "#chosen")
    assert "folded" in text(page, "#chosen")
    assert "left, as folded" in text(page, "#weights-title")
    # ... and from an op of either graph to the rows.
    view.settle()
    page.locator("#after .node.chosen rect").click()
    assert page.locator("#table tr.picked").count() == 1
    page.evaluate("chooseOp('after', views.after.graph.nodes.find(n => n.name === 'stem').id)")
    names = page.locator("#table tr.picked .link").all_inner_texts()
    assert "norm" in names
    assert page.locator("#before .node.chosen").count() == 1 + (len(names) - 1)


@pytest.mark.slow
def test_keys_walk_and_choose(opened: Open, html: str) -> None:
    view = opened(html)
    page = view.page
    page.focus("#before")
    page.keyboard.press("End")
    assert "output" in text(page, "#chosen")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert "div" in text(page, "#chosen")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#table tr.picked .link").inner_text() == "norm"
    page.keyboard.press("ArrowUp")
    assert "stem" in text(page, "#chosen")
    scale = page.evaluate("views.before.scale")
    page.keyboard.press("+")
    assert page.evaluate("views.before.scale") > scale
    page.keyboard.press("0")
    assert page.evaluate("views.before.scale") < scale
    # What is told to screen readers.
    tree = page.locator("main").aria_snapshot()
    for told in ('application "Graph before the fold"', 'searchbox "Search for an op"', "Verdicts"):
        assert told in tree
    assert page.locator("#chosen").get_attribute("aria-live") == "polite"


@pytest.mark.slow
def test_pan_zoom_and_search(opened: Open, html: str) -> None:
    view = opened(html)
    page = view.page
    frame = page.locator("#before").bounding_box()
    middle = (frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    page.mouse.move(*middle)
    before = page.evaluate("[views.before.x, views.before.y]")
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 25, steps=4)
    page.mouse.up()
    after = page.evaluate("[views.before.x, views.before.y]")
    assert [b - a for a, b in zip(before, after, strict=True)] == [40, 25]
    assert page.locator(".node.chosen").count() == 0, "a drag chooses nothing"
    scale = page.evaluate("views.before.scale")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.wait_for_function(f"views.before.scale > {scale}")
    page.mouse.wheel(0, 100)
    page.click("[data-side=after][data-zoom=out]")
    page.click("[data-side=after][data-zoom=all]")
    page.fill("#search", "conv2d")
    assert text(page, "#matches") == "6 ops, Enter shows the next"
    assert page.locator("#after .node.match").count() == 3
    page.press("#search", "Enter")
    assert page.locator("#before .node.chosen title").text_content() == "stem (conv2d)"
    page.fill("#search", "no such op")
    assert text(page, "#matches") == "0 ops"


def test_the_table_sorts_and_filters(opened: Open, html: str) -> None:
    page = opened(html).page
    names = page.locator("#table tbody .link")
    run_order = names.all_inner_texts()
    page.click("th button[data-column='0']")
    assert names.all_inner_texts() == sorted(run_order, key=str.lower)
    assert page.locator("th").first.get_attribute("aria-sort") == "ascending"
    page.click("th button[data-column='0']")
    assert page.locator("th").first.get_attribute("aria-sort") == "descending"
    page.click("th button[data-column='4']")
    errors = [float(e or 0) for e in page.locator("#table td:nth-child(5)").all_inner_texts()]
    assert errors == sorted(errors)
    page.fill("#filter", "statistics")
    assert text(page, "#shown") == f"1 of {len(run_order)} rows"
    assert page.locator("#table tbody tr:visible .link").all_inner_texts() == ["kept"]
    page.fill("#filter", "")
    page.uncheck(".outcome[value=kept]")
    assert text(page, "#shown") == f"{len(run_order) - 1} of {len(run_order)} rows"


def test_touch(opened: Open, html: str) -> None:
    view = opened(html, 390, has_touch=True)
    page = view.page
    page.locator("#before .node.folded rect").first.tap()
    view.settle()
    assert page.locator("#table tr.picked").count() >= 1


def long_network(count: int) -> bnfx.Report:
    """A graph of ``count`` ops, each third a BatchNorm, with skips over some and over many."""
    before, verdicts = [Op(0, "x", "input", shape=(1, 8, 4, 4))], []
    for at in range(1, count):
        inputs = [at - 1, *([at - 9] if at % 9 == 0 else []), *([at - 90] if at % 90 == 0 else [])]
        sites = (len(verdicts),) if at % 3 == 2 else ()
        if sites:
            verdicts.append(Verdict(Site(f"block{at}.bn", "batch_norm"), Outcome.FOLDED, "conv"))
        kind = ("relu", "conv2d", "batch_norm")[at % 3]
        before.append(Op(at, f"block{at}.{kind}", kind, tuple(inputs), (1, 8, 4, 4), sites=sites))
    return bnfx.Report(
        (GraphReport(tuple(verdicts), details=GraphDetails(tuple(before), tuple(before))),)
    )


@pytest.mark.slow
def test_three_thousand_ops(opened: Open) -> None:
    begun = time.process_time()
    html = long_network(3000).to_html()
    assert time.process_time() - begun < 30, "the layout would take minutes"
    page = opened(html).page
    assert page.locator("#before .node").count() == 3000
    # Sixty frames of zooming: none blocks the page for long. (A frame is about 10 ms by itself.)
    worst = page.evaluate(
        """async () => {
          let worst = 0, last = performance.now();
          for (let at = 0; at < 60; at++) {
            views.before.zoom(at < 30 ? 0.9 : 1.1);
            await new Promise(requestAnimationFrame);
            worst = Math.max(worst, performance.now() - last);
            last = performance.now();
          }
          return worst;
        }"""
    )
    print(f"the longest frame of 60 took {worst:.0f} ms")
    page.fill("#search", "block2999")
    assert page.locator("#before .node.match").count() == 1
    page.locator("#table .link").last.click()
    assert "block2999" in text(page, "#chosen")
