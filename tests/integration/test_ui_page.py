"""The page in a real browser, with a made-up node of a thousand endpoints behind it.

One browser and one backend for all tests, in this order or any other: each begins with the page as it was opened.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser
from tests.ui_backend import Backend
from tests.ui_support import served

pytestmark = pytest.mark.xdist_group("browser")

AXE = Path(__file__).resolve().parents[1] / "vendor" / "axe.min.js"
SIZE = 1000
ROWS = "return document.querySelectorAll('#endpoints .grid-body .grid-row').length"
_DRAWN = f"{ROWS} > 8 && document.querySelector('.edge') && document.querySelector('.range')"
_DRAWN_OR_FILTERED = "return document.querySelector('.edge') && document.querySelector('.range')"
_RESET = """
    const open = ".drawer-head button, #area-traffic .tools button, #events-pause[aria-pressed=true]";
    for (const button of document.querySelectorAll(open)) button.click();
    for (const box of document.querySelectorAll("input[type=search]")) {
      box.value = "";
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    for (const grid of document.querySelectorAll("[role=grid]")) grid.scrollTop = 0;
    document.activeElement.blur();
    scrollTo(0, 0);
"""
_OUTSIDE = """
    const outside = (one) => one.getBoundingClientRect().right > innerWidth + 1;
    const all = [...document.querySelectorAll("header *, section, .cell, .tools *:not(option)")];
    return all.filter(outside).map((one) => one.outerHTML);
"""
# What a person sees who can't see everything, or who likes other colours; rules that are about taste are not asked.
_AXE = """
    const [place, rules, done] = arguments;
    axe.run(place, {runOnly: rules}).then(
      (found) => done(found.violations.map((one) => [one.help, one.nodes[0].html, one.nodes[0].failureSummary])),
      (error) => done([["axe", String(error), []]]));
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with Backend(tmp_path_factory.mktemp("b"), SIZE) as made:
        yield made


@pytest.fixture(scope="module")
def window(backend: Backend) -> Iterator[tuple[Browser, str]]:
    with served(backend.config_file) as address, Browser(1280, 900) as browser:
        browser.open(address)
        yield browser, address


@pytest.fixture
def page(window: tuple[Browser, str]) -> Browser:
    """The page with everything drawn and nothing open, filtered or held. To open it anew each time takes too long."""
    browser, address = window
    if browser.run("return location.href") != address:
        browser.open(address)
    browser.until(_DRAWN_OR_FILTERED)
    browser.run(_RESET)
    browser.until(_DRAWN)
    return browser


def focus(page: Browser) -> str:
    """Return what has the focus: its id, or else its text."""
    return str(page.run("return document.activeElement.id || document.activeElement.innerText"))


def test_of_a_thousand_endpoints_those_in_view_are_drawn_and_all_are_there(page: Browser):
    assert page.run(ROWS) < 40
    assert page.run("return document.getElementById('endpoints').getAttribute('aria-rowcount')") == str(SIZE + 1)
    assert page.run("return document.querySelectorAll('*').length") < 2500
    page.run("document.getElementById('endpoints').scrollTop = 1e6")
    page.until("return document.getElementById('endpoints-row-1000')")
    assert page.run(ROWS) < 40
    assert "1,000\nendpoints" in page.text(".figures")
    assert page.complaints() == []


def test_words_and_fields_filter(page: Browser):
    page.press("/")
    assert focus(page) == "endpoints-filter"
    page.press(*"ledger -state:ready")
    page.until("return document.querySelector('.grid-empty')")
    page.run("document.activeElement.select()")
    page.press(*"id:9 redis")
    page.until(f"{ROWS} > 0")
    assert page.text("#endpoints .grid-body").split("\n")[:2] == ["9", "data/redis-0"]
    assert page.text("#area-endpoints .note") == page.run(
        "return document.querySelector('#area-endpoints [role=status]').innerText"
    )
    page.press("Escape")
    assert focus(page) != "endpoints-filter"


def test_keys_alone_find_open_and_close_an_endpoint(page: Browser):
    page.press("1")
    assert focus(page) == "endpoints"
    page.press("End")
    page.until("return document.querySelector('#endpoints-row-1000.active')")
    page.press("Home", "Down", "Down")
    page.until("return document.querySelector('#endpoints-row-3.active')")
    assert page.run("return document.activeElement.getAttribute('aria-activedescendant')") == "endpoints-row-3"
    page.press("Enter")
    page.until("return document.querySelectorAll('.waterfall').length === 2")
    assert focus(page).startswith("Close")
    drawer = page.text(".drawer")
    assert drawer.startswith("shop/search-0")
    # Of its creation: the phase that took much longer than it does on this node.
    assert "66.5 ms, usually 21.3 ms" in drawer
    assert page.run("return [...document.querySelectorAll('.slow th')].map((one) => one.innerText)") == [
        "datapath",
        "load",
        "verify",
    ]
    page.press("Escape")
    page.until("return !document.querySelector('.drawer')")
    assert focus(page) == "endpoints"
    assert page.complaints() == []


def test_the_map_is_walked_by_arrows_and_is_a_table_too(page: Browser):
    page.run("document.querySelector('.node[tabindex=\"0\"]').focus()")
    first = page.run("return document.activeElement.getAttribute('aria-label')")
    assert "packets dropped" in first
    page.press("Up")
    assert page.run("return document.activeElement.getAttribute('aria-label')") != first
    page.press("Down", "Enter")
    page.until("return document.querySelector('.node.held')")
    rows = page.run("return [...document.querySelectorAll('#talks .grid-body .grid-row')].map((row) => row.innerText)")
    held = page.run("return document.querySelector('.node.held .name').textContent")
    assert rows
    assert all(held in row for row in rows)
    assert page.run("return document.querySelectorAll('.edge-dropped').length") == 2
    assert page.run("return document.querySelector('#talks .row-bad .col-dropped') !== null")


def test_what_changes_is_there_without_a_reload(page: Browser, backend: Backend):
    page.run("window.opened = 1")
    backend.put(backend.world.endpoint(SIZE + 1, "mail/sender", 4711))
    page.until("return document.querySelector('.figures .value').innerText === '1,001'")
    page.press("/", *"4711")
    page.until(f"{ROWS} === 1")
    assert "mail/sender-4711" in page.text("#endpoints")
    backend.drop("shop/web-0", "pay/ledger-0", 4711)
    page.until("return document.querySelector('#events .grid-body').innerText.includes('shop/web-0 → pay/ledger-0')")
    page.until("return [...document.querySelectorAll('#talks .row-bad')].some((row) => row.innerText.includes('4711'))")
    backend.remove(SIZE + 1)
    page.until("return document.querySelector('.figures .value').innerText === '1,000'")
    assert page.run("return window.opened") == 1
    assert page.complaints() == []


def test_held_events_stay_and_go_on(page: Browser, backend: Backend):
    page.press("p")
    page.until("return document.getElementById('events-pause').getAttribute('aria-pressed') === 'true'")
    top = page.run("return document.querySelector('#events .grid-body .grid-row').id")
    backend.drop("shop/cart-0", "pay/ledger-0", 9)
    page.until("return document.getElementById('events-pause').innerText.includes('(1)')")
    assert page.run("return document.querySelector('#events .grid-body .grid-row').id") == top
    page.press("p")
    page.until("return document.querySelector('#events .grid-body').innerText.includes('shop/cart-0')")


def test_a_service_that_is_away_is_said_and_comes_back(page: Browser, backend: Backend):
    page.run("window.opened = 1")
    before = page.run("return document.getElementById('area-traffic').offsetTop")
    events = "return document.getElementById('events').getAttribute('aria-rowcount')"
    known = page.run(events)
    backend.down("endpoint")
    page.until("return document.querySelector('.away').innerText.includes('podlane-endpoint is away')")
    assert page.run(ROWS) > 8  # what it has said stays
    assert page.run("return document.getElementById('area-traffic').offsetTop") == before  # nothing has moved
    backend.up("endpoint")
    page.until("return !document.querySelector('.away').innerText")
    backend.put(backend.world.endpoint(SIZE + 2, "mail/sender", 99))
    backend.drop("shop/search-0", "pay/ledger-0", 99)
    page.until("return document.querySelector('#events .grid-body').innerText.includes('shop/search-0 → pay/ledger-0')")
    assert int(page.run(events)) == int(known) + 1  # its history was told again, and is known
    page.until("return document.querySelector('.figures .value').innerText === '1,001'")
    backend.remove(SIZE + 2)
    page.until("return document.querySelector('.figures .value').innerText === '1,000'")
    assert page.run("return window.opened") == 1


def test_names_are_text_whatever_they_are(page: Browser, backend: Backend):
    name = "<img src=x onerror=window.caught=1>"
    evil = backend.world.endpoint(SIZE + 3, "mail/sender", 1)
    evil.pod.name = name
    evil.identity_labels["k8s:app"] = name
    evil.health.overall = 4
    evil.health.reasons.append(name)
    backend.put(evil)
    page.press("/", *"onerror")
    page.until(f"{ROWS} === 1")
    page.press("Escape", "1", "Down", "Enter")
    page.until("return document.querySelector('.drawer .problems')?.innerText")
    assert page.text(".drawer h2") == f"mail/{name}"
    assert page.run("return [document.querySelectorAll('img').length, window.caught ?? null]") == [0, None]
    backend.remove(SIZE + 3)
    assert page.complaints() == []


@pytest.mark.parametrize(
    ("scheme", "rules"),
    [("light", ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]), ("dark", ["color-contrast"])],
)
def test_it_can_be_read_by_everybody(page: Browser, scheme: str, rules: list[str]):
    page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.run(AXE.read_text())
    assert page.wait(_AXE, "body", rules) == []
    page.press("1", "Down", "Enter")
    page.until("return document.querySelector('.waterfall')")
    page.wait("Promise.all(document.getAnimations().map((one) => one.finished)).then(() => arguments[0]())")
    assert page.wait(_AXE, ".drawer", rules) == []
    page.press("Escape", "?")
    page.until("return document.querySelector('dialog[open]')")
    assert page.wait(_AXE, "dialog", rules) == []
    page.press("Escape")
    page.until("return !document.querySelector('dialog')")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page: Browser, width: int):
    page.resize(width, 844)
    page.wait("requestAnimationFrame(() => setTimeout(arguments[0], 50))")
    try:
        assert page.run("return document.documentElement.scrollWidth") == width
        assert page.run(_OUTSIDE) == []
    finally:
        page.resize(1280, 900)


def test_the_server_may_go_and_come_back(backend: Backend, unused_tcp_port: int, window: tuple[Browser, str]):
    page, _ = window
    listen = f"127.0.0.1:{unused_tcp_port}"
    with served(backend.config_file, listen=listen) as address:
        page.open(address)
        page.until(_DRAWN)
        page.run("window.opened = 1")
    page.until("return document.querySelector('.away').innerText.includes('podlane ui')")
    backend.remove(SIZE)
    with served(backend.config_file, listen=listen):
        page.until("return document.querySelector('.figures .value').innerText === '999'")
        page.until("return !document.querySelector('.away').innerText")
        assert page.run("return window.opened") == 1
    backend.put(backend.world.endpoint(SIZE, "mail/sender", 3))
