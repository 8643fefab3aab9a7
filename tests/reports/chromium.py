"""Headless Chromium by its own protocol over two pipes: what a page really looks like, without another package.

with Browser() as browser:
    page = browser.open(path, width=390, dark=True)
    page.ask("document.title")
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # there is none for root, which is what a container runs as
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 120.0
"""Seconds for one answer."""
MOST_HEIGHT = 16_000
"""Of a screenshot: textures of the browser end there."""


def find() -> str | None:
    """The browser of this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser process; a page at a time."""

    def __init__(self) -> None:
        found = find()
        if found is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4. The pipes' own numbers are moved out of the way.
        given = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{given[0]} 4>&{given[1]}', "bash", found, *FLAGS,
             f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_browser, from_browser, *given):
            os.close(end)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._profile.cleanup()

    def send(
        self, method: str, settings: Mapping[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """One command and its answer; events that come in between are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": settings or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            got = os.read(self._in, 1 << 20) if ready else b""
            if not got:
                raise TimeoutError(f"Chromium said nothing for {PATIENCE:g} s, or has ended: {self._process.poll()}")
            self._buffer += got
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def wait_for(self, event: str, session: str) -> None:
        """Until an event has come; those that came before it count."""
        while not any(e["method"] == event and e.get("sessionId") == session for e in self.events):
            self.events.append(self._read())

    def open(self, path: Path, width: int = 1280, height: int = 800, dark: bool = False) -> Page:
        """The page in this file, laid out and painted."""
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "Performance"):
            page.send(f"{domain}.enable")
        page.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", {"features": [scheme]})
        begin = time.monotonic()
        page.send("Page.navigate", {"url": path.resolve().as_uri()})
        self.wait_for("Page.loadEventFired", session)
        # two frames later the first one has been painted
        page.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        page.seconds = time.monotonic() - begin
        return page


class Page:
    """One open page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.seconds = 0.0
        """From the address to the first painted frame."""

    def send(self, method: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._browser.send(method, settings, self._session)

    def ask(self, expression: str) -> Any:
        """What this JavaScript says, as JSON has it."""
        settings = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self.send("Runtime.evaluate", settings)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", metrics)

    def complaints(self) -> list[str]:
        """What the console shows: errors, warnings, refusals of the security policy."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        mine = (e for e in self._browser.events if e.get("sessionId") == self._session)
        return [json.dumps(e["params"]) for e in mine if e["method"] in kinds]

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        mine = (e for e in self._browser.events if e.get("sessionId") == self._session)
        return [e["params"]["request"]["url"] for e in mine if e["method"] == "Network.requestWillBeSent"]

    def outline(self) -> list[tuple[str, str]]:
        """Role and name of what a screen reader reads, in its order."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        named = {node["nodeId"]: node for node in nodes}
        found: list[tuple[str, str]] = []

        def walk(node: dict[str, Any]) -> None:
            if not node.get("ignored"):
                found.append((node["role"]["value"], node.get("name", {}).get("value", "")))
            for child in node.get("childIds", ()):
                if child in named:
                    walk(named[child])

        walk(nodes[0])
        return found

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The page as PNG: all of it, or the first screen."""
        settings: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], MOST_HEIGHT), "scale": 1}
            settings |= {"captureBeyondViewport": True, "clip": clip}
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", settings)["data"]))

    def print(self, path: Path) -> None:
        """The page on paper, as PDF."""
        path.write_bytes(base64.b64decode(self.send("Page.printToPDF", {"printBackground": False})["data"]))


def main() -> None:
    """The first screen of a page: `python -m tests.reports.chromium run/report.html docs/report.png`."""
    page, picture = map(Path, sys.argv[1:3])
    with Browser() as browser:
        browser.open(page, width=1280, height=960).screenshot(picture, whole=False)


if __name__ == "__main__":
    main()
