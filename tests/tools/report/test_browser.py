"""The page in a real browser: what a user sees, clicks and types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import Chromium, Tab, find
from inspected import EVIL, many_nodes

from ecograph.tools.report.page import page

pytestmark = pytest.mark.skipif(
    find() is None, reason="there is no Chromium here (on Debian: apt-get install chromium)"
)

Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find()
    assert program is not None
    chromium = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "small.html"
    path.write_text(page(many_nodes(4), "optimizer adamw"), encoding="utf-8")
    return path


@pytest.fixture
def tab(browser: Chromium, small: Path) -> Iterator[Tab]:
    """The page of a small model; whatever was done to it, it must not have complained, nor asked for anything."""
    opened = browser.open(small)
    yield opened
    assert opened.complaints() == []
    assert opened.requests() == [small.as_uri()]
    opened.close()


def test_what_is_to_be_seen(tab: Tab) -> None:
    assert tab.text("h1") == "Net"
    assert "NVIDIA H100" in tab.text("#subtitle") and "optimizer adamw" in tab.text("#subtitle")
    assert "▼" in tab.text("#totals")
    facts = tab.text("#facts")
    for word in (
        "sparse_backward",
        "alternate",
        "memory bandwidth",
        "https://",
        "odd",
        "dynamo",
        "counted from shapes",
    ):
        assert word in facts
    assert tab.js("document.querySelector('.chart polyline').getAttribute('points').split(' ').length") == 60


def test_a_node_can_be_clicked(tab: Tab) -> None:
    for name in ("blocks.0 ", "blocks.0.down"):
        tab.click(f'.row[title^="{name}"] .twisty')
    tab.click("#tree .row.node")
    details = tab.text("#details")
    assert "8 × 64" in details and "net.py:10" in details and "sparse_backward" in details
    tab.click('.row[title^="blocks.0.down"]')
    details = tab.text("#details")
    assert "4 → 2 ms" in details and "sparse_backward" in details and "1 MFLOPs" in details
    assert tab.js("document.querySelector('[aria-selected=true]').title").startswith("blocks.0.down")


def test_a_module_is_what_is_in_it(tab: Tab) -> None:
    tab.click('.row[title^="blocks.1 "]')
    details = tab.text("#details")
    assert "10 → 8 ms" in details and "forward" in details and "4" in details
    assert "12 → 10 ms" not in tab.text("#totals") and "44 → 36 ms" in tab.text("#totals")
    assert "40 → 32 ms" in tab.text("#facts"), "the forward of the step by phase"


def test_the_treemap_and_the_graph(tab: Tab) -> None:
    tab.click('.cell.leaf[aria-label^="blocks.2.up"]')
    assert tab.text("#details-name") == "blocks.2.up" and "too few channels" in tab.text("#details")
    area = "(r => r.width * r.height)(document.querySelector('.cell').getBoundingClientRect())"
    whole = tab.js(area)
    tab.click("[data-value=after]")
    assert tab.js(area) < 0.95 * whole, "what is saved is empty space"
    tab.click("[data-value=energy]")
    assert "mJ" in tab.text("#treemap")
    tab.click("[data-value=graph]")
    tab.click('.block[aria-label^="blocks.1,"]', count=2)
    assert tab.js("document.querySelectorAll('.block[aria-expanded=true]').length") == 2, "blocks and blocks.1"
    assert tab.js("document.querySelectorAll('.arrow').length") >= 2 * 6
    tab.click('.block[aria-label^="blocks.1.down"]')
    assert tab.text("#details-name") == "blocks.1.down"
    tab.click("#details dd .link")
    assert tab.text("#details-name").endswith(EVIL), "it takes what the layer before gives"


def test_search_finds_a_layer(tab: Tab) -> None:
    tab.press("/")
    assert tab.js("document.activeElement.id") == "search"
    tab.write("blocks.3.DOWN")
    assert tab.text("#found") == "1 found"
    tab.press("Enter")
    assert tab.text("#details-name") == "blocks.3.down"
    tab.click("#search")
    tab.press("Escape")
    assert tab.text("#found") == ""
    tab.write("nothing like it")
    assert tab.text("#found").startswith("nothing found")
    assert tab.js("document.querySelectorAll('.row').length") == 0


def test_the_keyboard_is_enough(tab: Tab) -> None:
    tab.js("document.getElementById('tree').focus()")
    active = "document.getElementById(document.getElementById('tree').getAttribute('aria-activedescendant'))"
    steps = [("ArrowDown", "blocks"), ("ArrowLeft", "blocks"), ("ArrowRight", "blocks"), ("ArrowRight", "blocks.0")]
    steps += [
        ("ArrowDown", "blocks.1"),
        ("ArrowRight", "blocks.1"),
        ("ArrowRight", "blocks.1.norm"),
        ("ArrowLeft", "blocks.1"),
        ("End", "Net (opt"),
    ]
    for key, expected in [*steps, ("ArrowUp", "blocks.3"), ("ArrowUp", "blocks.2")]:
        tab.press(key)
        title = tab.js(f"{active}.title")
        assert title.startswith(expected), key
    tab.press("Enter")
    assert tab.text("#details-name") == "blocks.2"
    assert tab.js(f"{active}.getAttribute('aria-level')") == "3"
    style = f"getComputedStyle({active}).outlineStyle"
    assert tab.js(style) == "solid", "focus is seen"


def test_dark_mode(tab: Tab) -> None:
    def brightness(property_: str) -> float:
        numbers = tab.js(f"getComputedStyle(document.body).{property_}.match(/[0-9.]+/g).map(Number)")
        return float(sum(numbers[:3]))

    tab.colours("light")
    assert brightness("backgroundColor") > 600 > 300 > brightness("color")
    tab.colours("dark")
    assert brightness("backgroundColor") < 100 and brightness("color") > 600


def test_names_are_text(tab: Tab) -> None:
    tab.js("document.getElementById('open-all').click()")
    tab.drawn()
    assert EVIL in tab.text("#tree") and EVIL in tab.text("#treemap")
    assert "mind </script> this" in tab.text("#facts")
    assert tab.js("document.scripts.length") == 2


def test_narrow_windows(browser: Chromium, small: Path) -> None:
    tab = browser.open(small, width=420)
    assert tab.js("document.documentElement.scrollWidth") <= 420
    tab.click(".cell.leaf")
    assert tab.text("#details-name")
    assert tab.complaints() == []
    tab.close()


def test_two_thousand_nodes_open_fast(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    path.write_text(page(many_nodes(400)), encoding="utf-8")
    tab = browser.open(path)
    assert tab.seconds < 2
    tab.js("document.getElementById('open-all').click()")
    tab.click("[data-value=graph]")
    assert tab.js("document.querySelectorAll('.row, .block').length") < 200, "only what is on the screen is there"
    tab.js("document.getElementById('flow').scrollTop = 1e6")
    tab.js("document.getElementById('tree').scrollTop = 1e6")
    tab.drawn()
    assert tab.text(".block:last-of-type") and "(optimizer)" in tab.text("#tree")
    assert tab.complaints() == []
    tab.close()
