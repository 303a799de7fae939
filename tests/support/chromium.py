"""A headless Chromium, driven through the DevTools protocol over a pipe: no port, and no client to install."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

KEYS = {"Enter": (13, "\r"), "ArrowDown": (40, ""), "ArrowUp": (38, ""), "ArrowRight": (39, ""), "ArrowLeft": (37, "")}
KEYS |= {"Home": (36, ""), "End": (35, ""), "Escape": (27, ""), "/": (191, "/")}


def find() -> str | None:
    """Returns the program, or None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """The browser.

    Args:
        program: to start.
        profile: an empty folder.
    """

    def __init__(self, program: str, profile: Path) -> None:
        read, self._write = map(_high, os.pipe())
        self._read, write = map(_high, os.pipe())
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        flags += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        # Chromium reads commands from 3 and writes to 4. Other shells than bash know no numbers above 9.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write} {read}<&- {write}>&-', "bash", program, *flags],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._buffer = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Ends the browser."""
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to a command; what else arrives is kept in ``events``."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message(60)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _message(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise RuntimeError("Chromium does not answer")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("Chromium ended")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path: Path, *, width: int = 1440, height: int = 1000) -> Tab:
        """Returns a new tab that shows a file, once it is drawn."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        tab.call("Emulation.setDeviceMetricsOverride", **size)
        begin = time.perf_counter()
        tab.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in tab.events()):
            self._message(60)
        tab.drawn()
        tab.seconds = time.perf_counter() - begin
        return tab


def _high(descriptor: int) -> int:
    """Returns a copy that is out of the way of 3 and 4."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return copy


class Tab:
    """A page in the browser.

    Attributes:
        seconds: from asking for the page until it was drawn.
    """

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self._browser, self._target, self._session = browser, target, session
        self.seconds = 0.0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to a command for this page."""
        return self._browser.call(method, self._session, **parameters)

    def events(self) -> list[dict[str, Any]]:
        """Returns what the page reported so far."""
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def close(self) -> None:
        """Closes the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def drawn(self) -> None:
        """Waits until what was done is on the screen."""
        script = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
        self.js(script)

    def js(self, expression: str) -> Any:
        """Returns the value of an expression, as JSON types."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """Returns what is written in an element."""
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str, *, count: int = 1) -> None:
        """Clicks with the mouse where the element is."""
        element = f"document.querySelector({json.dumps(selector)})"
        box = self.js(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())")
        for number in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                where = {"x": box[0], "y": box[1], "button": "left", "clickCount": number}
                self.call("Input.dispatchMouseEvent", type=kind, **where)
        self.drawn()

    def press(self, key: str) -> None:
        """Presses a key."""
        code, text = KEYS[key]
        typed = {"text": text} if text else {}
        key_down = {"type": "keyDown", "key": key, "windowsVirtualKeyCode": code, **typed}
        self.call("Input.dispatchKeyEvent", **key_down)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.drawn()

    def write(self, text: str) -> None:
        """Types text."""
        self.call("Input.insertText", text=text)
        self.drawn()

    def colours(self, scheme: str) -> None:
        """Has the page believe that the user likes it ``"light"`` or ``"dark"``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.drawn()

    def picture(self, path: Path) -> None:
        """Writes what is to be seen to a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def complaints(self) -> list[str]:
        """Returns exceptions, and what was written to the console or the log."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events() if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Returns the addresses that were asked for."""
        asked = (event for event in self.events() if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in asked]
