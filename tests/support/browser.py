"""A headless Chromium, driven over its debugging pipe: no driver to install, only the browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """A Chromium on the path, or the one that DUDE_CHROMIUM names."""
    return os.environ.get("DUDE_CHROMIUM") or next((p for name in NAMES if (p := shutil.which(name))), None)


class Page:
    """One page, and what the browser said about it.

    Attributes:
        said: messages of the console, errors of scripts and of the content policy.
        requests: addresses that were asked for.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, os.fdopen(back, "rb")
        self._number, self._session, self._rest = 0, None, b""
        self.said: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._back.fileno(), 1 << 16)
            if not part:
                raise RuntimeError("the browser has ended")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        what, told = message.get("method"), message.get("params", {})
        if what == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(one.get("value")) for one in told["args"]))
        elif what == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.said.append(str(details.get("exception", details).get("description", details)))
        elif what == "Log.entryAdded":
            self.said.append(told["entry"]["text"])
        elif what == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif what == "Page.loadEventFired":
            self._loaded = True
        return message

    def open(self, file: Path, *, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Open a file in a window of that many pixels and wait until it is loaded."""
        self.said, self.requests, self._loaded = [], [], False
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._next()

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Move the pointer there."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Write what is seen as PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A browser with an empty profile in the folder `profile`; ended with the block."""
    browser = find_browser()
    assert browser is not None
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()

    # The browser reads its commands from descriptor 3 and answers on 4.
    line = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
    flags = ["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    flags += ["--no-first-run", "--disable-extensions", "--disable-background-networking", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", line, browser, *flags],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Page(commands, answers)
    finally:
        process.kill()
        process.wait()
        os.close(commands)
