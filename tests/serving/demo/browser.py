"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_MODIFIERS = {"alt": 1, "ctrl": 2, "shift": 8}
_PATIENCE = 120


class Page:
    """One tab.

    Args:
        address: of its DevTools socket.

    Attributes:
        requests: address of everything that was asked for.
        problems: exceptions and errors of its scripts.
    """

    def __init__(self, address: str) -> None:
        import websocket

        self._socket = websocket.create_connection(address, timeout=_PATIENCE, suppress_origin=True)
        self._count = 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a command and return its result."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            self._note(message)
            if message.get("id") == self._count:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])

    def run(self, script: str) -> Any:
        """The value of an expression; promises are awaited."""
        given = {"expression": script, "awaitPromise": True, "returnByValue": True}
        result = self.send("Runtime.evaluate", **given)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str, seconds: float = _PATIENCE) -> Any:
        """Wait for an expression to be true, and return its value; true for an element."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"((value) => value instanceof Node || value)({script})")):
            assert time.monotonic() < end, f"never true: {script}; {self.problems}"
            time.sleep(0.05)
        return value

    def size(self, width: int, height: int, ratio: float = 1, touch: bool = False) -> None:
        """The window, in CSS pixels."""
        given = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": touch}
        self.send("Emulation.setDeviceMetricsOverride", **given)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)

    def open(self, address: str) -> None:
        """Go to the demo and wait until it is ready."""
        self.send("Page.navigate", url=address)
        self.until("document.querySelector('#pvit')?.dataset.ready === 'yes'")

    def mouse(self, kind: str, x: float, y: float, buttons: int = 0, clicks: int = 0) -> None:
        """One event of the mouse; kind is moved, pressed or released."""
        name = {"moved": "mouseMoved", "pressed": "mousePressed", "released": "mouseReleased"}[kind]
        button = "left" if buttons or kind == "released" else "none"
        self.send("Input.dispatchMouseEvent", type=name, x=x, y=y, button=button, buttons=buttons, clickCount=clicks)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press at the first place, move over the others, release at the last."""
        (x, y), *others = places
        self.mouse("moved", x, y)
        self.mouse("pressed", x, y, 1, 1)
        for x, y in others:
            self.mouse("moved", x, y, 1)
        self.mouse("released", x, y, 0, 1)

    def click(self, selector: str) -> None:
        """Click in the middle of an element, scrolled into sight."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{find}.scrollIntoView({{block: 'nearest'}})")
        x, y = self.run(
            f"(() => {{ const r = {find}.getBoundingClientRect(); return [r.x + r.width/2, r.y + r.height/2]; }})()"
        )
        self.drag((x, y))

    def key(self, key: str, *modifiers: str) -> None:
        """Press a key."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "Delete": 46, "Backspace": 8, "ArrowLeft": 37, "ArrowUp": 38}
        codes |= {"ArrowRight": 39, "ArrowDown": 40, "PageUp": 33, "PageDown": 34, " ": 32}
        code = codes.get(key, ord(key.upper()[0]))
        bits = sum(_MODIFIERS[name] for name in modifiers)
        given: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": bits}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 and not bits & 3 else None)
        self.send("Input.dispatchKeyEvent", type="keyDown", **given, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **given)

    def type(self, text: str) -> None:
        """Text, as if typed where the focus is."""
        self.send("Input.insertText", text=text)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def screenshot(self) -> bytes:
        """The window as PNG, in device pixels."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A Chromium with one tab.

    Args:
        folder: for its profile.
    """
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    words += ["--hide-scrollbars", "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder}"]
    with subprocess.Popen([*words, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            page = Page(_tab(folder / "DevToolsActivePort"))
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()


def _tab(file: Path) -> str:
    """The socket of the first tab, as soon as the browser has said its port."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if file.is_file() and len(lines := file.read_text().splitlines()) == 2:
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                if tabs := [one for one in json.load(answer) if one["type"] == "page"]:
                    return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise TimeoutError("Chromium did not say its DevTools port")
