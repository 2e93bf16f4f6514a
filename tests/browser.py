"""A real browser, driven over the pipe of Chromium's DevTools protocol; what uses it is skipped where there is none."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"),
)


class Browser:
    """One page of a browser: `with Browser(width, height) as it: it.open(path); it.evaluate("1 + 1")`."""

    def __init__(self, width: int = 1100, height: int = 1400) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [str(CHROMIUM), *FLAGS, f"--window-size={width},{height}", f"--user-data-dir={self._profile.name}"]
        shell = f"exec {' '.join(command)} about:blank 3<&{to_browser} 4>&{from_browser} 2>/dev/null"
        self._process = subprocess.Popen(
            ["bash", "-c", shell], pass_fds=(to_browser, from_browser), env={**os.environ, "TMPDIR": self._profile.name}
        )
        os.close(to_browser)
        os.close(from_browser)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.errors: list[str] = []
        pages = self.ask("Target.getTargets")["targetInfos"]
        page = next(p["targetId"] for p in pages if p["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a call. Raises RuntimeError with what the browser says against it."""
        number = next(self._numbers)
        call = {"id": number, "method": method, "params": params, **({"sessionId": self._session} if self._session else {})}
        os.write(self._write, json.dumps(call).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                return told["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not (read := os.read(self._read, 1 << 20)):
                raise RuntimeError("the browser went away")
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        if told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(told["params"]["exceptionDetails"].get("exception", {}).get("description")))
        if told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
            self.errors.append(told["params"]["entry"]["text"])
        self.last = told
        return told

    def open(self, path: Path | str) -> None:
        """Load a file and wait until it is there."""
        self.ask("Page.navigate", url=f"file://{Path(path).resolve()}")
        while self._next().get("method") != "Page.loadEventFired":
            continue

    def evaluate(self, text: str) -> Any:
        """The value of an expression in the page, a promise awaited. Raises RuntimeError with what it raised."""
        found = self.ask("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event, `mouseMoved`, `mousePressed` or `mouseReleased`, at a point of the window."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def picture(self, path: Path | str, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=whole, **({"clip": self._clip()} if whole else {}))
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def _clip(self) -> dict[str, Any]:
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
