"""Makes the pictures of docs/images: `python -m tests.ui_screenshots`, or `make screenshots`."""

import sys
import tempfile
from pathlib import Path

from tests.browser import Browser
from tests.ui_backend import Backend
from tests.ui_support import served

_IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
_READY = """
    const rows = (id) => document.querySelectorAll(`#${id} .grid-body .grid-row`).length;
    return rows("endpoints") >= arguments[0] && rows("events") > 3 && document.querySelector(".edge, .range") !== null;
"""
# name, endpoints, width, height, dark, what to do then
_PICTURES = [
    ("page", 1000, 1440, 1640, False, ""),
    ("page-dark", 1000, 1440, 1640, True, ""),
    ("endpoint", 1000, 1280, 1000, False, "open"),
    ("endpoint-dark", 1000, 1280, 1000, True, "open"),
    ("narrow", 1000, 390, 2600, False, ""),
    ("narrow-dark", 1000, 390, 844, True, "open"),
    ("few", 3, 1280, 1640, False, ""),
    ("1280", 40, 1280, 1640, True, ""),
]
_KEPT = {"page", "page-dark", "endpoint", "narrow"}


def main() -> int:
    """Make them; with an argument, all those that are looked at while the page is worked on, in that directory."""
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else _IMAGES
    where.mkdir(parents=True, exist_ok=True)
    for name, size, width, height, dark, then in _PICTURES:
        if where == _IMAGES and name not in _KEPT:
            continue
        file = where / f"ui-{name}.{'webp' if where == _IMAGES else 'png'}"
        with (
            tempfile.TemporaryDirectory() as made,
            Backend(Path(made), size) as backend,
            served(backend.config_file) as address,
            Browser(width, height, dark=dark) as browser,
        ):
            browser.open(address)
            browser.until(_READY, min(size, 8))
            if then == "open":
                browser.run("document.getElementById('endpoints').focus()")
                browser.press("Down", "Down", "Enter")
                browser.until("return document.querySelector('.waterfall')")
            browser.wait("document.fonts.ready.then(() => setTimeout(arguments[0], 400))")
            browser.picture(file)
            told = [f"{file}: {file.stat().st_size / 1024:.0f} KiB", *browser.complaints()]
        sys.stdout.write("\n  ".join(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
