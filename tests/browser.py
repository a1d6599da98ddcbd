"""Chromium without a screen, by the W3C WebDriver protocol: as much of a client as our tests need.

    with Browser() as browser:
        browser.open("http://127.0.0.1:9960/")
        browser.until("return document.title")

`chromedriver` listens on a port of loopback that the kernel has chosen, and ends with the block.
"""

import base64
import contextlib
import json
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

# As WebDriver spells them (https://www.w3.org/TR/webdriver2/#keyboard-actions).
KEYS = {
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "Tab": "\ue004",
    "Up": "\ue013",
    "Down": "\ue015",
    "Left": "\ue012",
    "Right": "\ue014",
    "End": "\ue010",
    "Home": "\ue011",
    "PageDown": "\ue00f",
}
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)
_PATIENCE = 20.0


class Browser:
    """One window."""

    def __init__(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """Choose how large it is, and which colours the person likes."""
        self._size = width, height
        self._dark = dark

    def __enter__(self) -> Self:
        """Start it."""
        self._stack = contextlib.ExitStack()
        profile = self._stack.enter_context(
            tempfile.TemporaryDirectory(prefix="pl-chromium-", ignore_cleanup_errors=True)
        )
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._stack.callback(self._end)
        assert self._driver.stdout is not None
        port = next(
            found[1] for line in self._driver.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        self._session = f"http://127.0.0.1:{port}"
        arguments = [
            *_SWITCHES,
            f"--user-data-dir={profile}",
            f"--window-size={self._size[0]},{self._size[1]}",
        ]
        options = {"args": arguments, "binary": "/usr/bin/chromium"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session += f"/session/{made['sessionId']}"
        self.resize(*self._size)
        if self._dark:
            self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        with contextlib.suppress(OSError, AssertionError):
            self._ask("DELETE", "", None)
        self._stack.close()

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.communicate(timeout=20)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._session + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = json.load(error)["value"]
            raise AssertionError(f"{told['error']}: {told['message']}") from None

    def resize(self, width: int, height: int) -> None:
        """Make the page, not the window, so large."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Call Chromium's own protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, address: str) -> None:
        """Go there."""
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments: Any) -> Any:
        """Return what a script hands to its last argument, a function."""
        return self._ask("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def until(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns, once that is true."""
        deadline = time.monotonic() + _PATIENCE
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < deadline, f"not within {_PATIENCE:.0f} s: {script}\n{self.text()[:3000]}"
            # An animation frame passes in between, which is when the page changes.
            self.wait("requestAnimationFrame(() => setTimeout(arguments[0], 30))")
        return found

    def text(self, selector: str = "body") -> str:
        """Return the text of the first element that fits."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def press(self, *keys: str) -> None:
        """Press and let go keys, one after the other: characters, or names of KEYS."""
        actions = [{"type": way, "value": KEYS.get(key, key)} for key in keys for way in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def complaints(self) -> list[str]:
        """Return what the console has got since the last call: errors and warnings of the page and of the network."""
        return [one["message"] for one in self._ask("POST", "/se/log", {"type": "browser"}) if one["level"] != "INFO"]

    def picture(self, file: Path) -> None:
        """Write the page as it is in view: a WebP, or a PNG by that name."""
        kind = {"format": "png"} if file.suffix == ".png" else {"format": "webp", "quality": 88}
        taken = self.devtools("Page.captureScreenshot", **kind)
        file.write_bytes(base64.b64decode(taken["data"]))
