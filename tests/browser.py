"""Headless Chromium for tests, driven over its debugging pipe: what a page logs, asks for, and measures.

The pipe needs no port, no driver and no package: JSON messages with a zero byte after each, on the descriptors 3
and 4 of the browser (https://chromedevtools.github.io/devtools-protocol/, --remote-debugging-pipe). The browser
ends with its pipe, whatever becomes of the test.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-pipe",
)
SECONDS = 60.0
"""How long the browser may take for any one answer."""


def chromium() -> str | None:
    """The browser's program, where there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Visit:
    """A loaded page: what it wrote to the console, and the addresses it asked for; `evaluate` runs in it."""

    browser: Browser
    session: str
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        wanted = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.browser.ask("Runtime.evaluate", wanted, self.session)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, from top to bottom, as a PNG."""
        options = {"format": "png", "captureBeyondViewport": True}
        answer = self.browser.ask("Page.captureScreenshot", options, self.session)
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A running browser; made by `running`."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self._visits: dict[str, Visit] = {}

    def visit(self, path: Path, width: int, height: int = 900, scheme: str = "light") -> Visit:
        """Open a file in a window of this size, in CSS pixels, and wait until it is loaded."""
        target = self.ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        visit = self._visits[session] = Visit(self, session)
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.ask(f"{domain}.enable", {}, session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", size, session)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", {"features": features}, session)
        self.ask("Page.navigate", {"url": path.absolute().as_uri()}, session)
        end = time.monotonic() + SECONDS
        while visit.evaluate("location.protocol + document.readyState") != "file:complete":
            if time.monotonic() > end:
                raise TimeoutError(f"{path} did not load in {SECONDS:.0f} s")
            time.sleep(0.02)
        return visit

    def ask(self, method: str, parameters: dict[str, Any], session: str | None = None) -> Any:
        """Send a command and wait for its result; events that come meanwhile go to their visits."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            if visit := self._visits.get(answer.get("sessionId", "")):
                _note(visit, answer.get("method", ""), answer.get("params", {}))

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser said nothing for {SECONDS:.0f} s")
            data = os.read(self._from, 1 << 16)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


def _note(visit: Visit, method: str, told: dict[str, Any]) -> None:
    if method == "Runtime.consoleAPICalled":
        visit.console.append(" ".join(str(value.get("value")) for value in told["args"]))
    elif method == "Runtime.exceptionThrown":
        visit.console.append(str(told["exceptionDetails"]))
    elif method == "Log.entryAdded":
        visit.console.append(told["entry"]["text"])
    elif method == "Network.requestWillBeSent":
        visit.requests.append(told["request"]["url"])


@contextmanager
def running(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile; when this ends none of its processes is left."""
    read_by_it, to_browser = os.pipe()
    from_browser, written_by_it = os.pipe()
    # Clear of 3 and 4, which the browser's shell below puts them on.
    theirs = [fcntl.fcntl(number, fcntl.F_DUPFD, 10) for number in (read_by_it, written_by_it)]
    os.close(read_by_it)
    os.close(written_by_it)
    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    shell = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]} {theirs[0]}<&- {theirs[1]}>&-'
    process = subprocess.Popen(
        ["bash", "-c", shell, "browser", *command],
        pass_fds=theirs,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
        start_new_session=True,
    )
    for number in theirs:
        os.close(number)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        # The session is our own: what is left in it is the browser's.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
