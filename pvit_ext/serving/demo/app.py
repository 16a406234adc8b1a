"""The demo as a Gradio app: one component of our own, and the answers as an event stream."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.serving.demo.answering import Answering, Asked
from pvit_ext.serving.demo.gate import Gate
from pvit_ext.serving.demo.pictures import Pictures
from pvit_ext.serving.demo.saving import Saving
from pvit_ext.serving.demo.service import Segmenter, Service, Setting
from pvit_ext.serving.demo.sessions import PATIENCE, Sessions

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("shapes", "store", "view", "draw", "pointer", "keys", "question", "panel", "talk", "start")
"""Files of the page's script, in order; they share one scope."""
_LAST_PORT = 65535
_GRADIOS_FILES = "GRADIO_TEMP_DIR"


@dataclass(frozen=True)
class Address:
    """Where the demo listens.

    Args:
        host: address of this machine.
        port: 0 for any free one.
    """

    host: str = "127.0.0.1"
    port: int = 7860

    def check(self) -> None:
        """Refuse a port that is taken: Gradio would say so after the model is loaded.

        Raises:
            OSError: saying what to do.
            ValueError: for a number that is no port.
        """
        if self.port > _LAST_PORT:
            raise ValueError(f"--port is 0 to {_LAST_PORT}, got {self.port}; 0 takes any free one")
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise OSError(
                    f"the demo cannot listen on {self.host} port {self.port}: {error.strerror}; give another --port "
                    "(0 for any free one) or --host"
                ) from error

    def free_port(self) -> int:
        """The port, or one that is free now."""
        if self.port:
            return self.port
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((self.host, 0))
            return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Parts:
    """What a demo is made of.

    Args:
        ask: hands a question to the model.
        setting: what the page shows of it.
        records: folder that records are saved in.
        segmenter: if there is one.
        patience: seconds in which a page that lost its connection may come back.
    """

    ask: Asked
    setting: Setting
    records: Path
    segmenter: Segmenter | None = None
    patience: float = PATIENCE


@contextmanager
def running(parts: Parts, address: Address) -> Iterator[str]:
    """Serve the demo while the block runs.

    Args:
        parts: of the demo.
        address: where it listens.

    Yields:
        its address for a browser.

    Raises:
        OSError: when the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported, which looks for news otherwise
    address.check()
    with tempfile.TemporaryDirectory(prefix="pvit-ext-demo-") as folder, _gradios_files_in(Path(folder, "gradio")):
        kept = Path(folder, "pictures")
        kept.mkdir()
        pictures = Pictures(kept)
        sessions = Sessions(pictures.close, parts.patience)
        answering = Answering(parts.ask, pictures, parts.setting.hints)
        service = Service(parts.setting, sessions, pictures, answering, Saving(parts.records), parts.segmenter)
        blocks, options = _blocks(service), _launch_options(sessions)
        try:
            _, url, _ = blocks.launch(server_name=address.host, server_port=address.free_port(), **options)
            yield url
        finally:
            sessions.close()
            blocks.close(verbose=False)


@contextmanager
def _gradios_files_in(folder: Path) -> Iterator[None]:
    """Whatever files Gradio makes go with the demo."""
    before = os.environ.get(_GRADIOS_FILES)
    os.environ[_GRADIOS_FILES] = str(folder)
    try:
        yield
    finally:
        del os.environ[_GRADIOS_FILES]
        if before is not None:
            os.environ[_GRADIOS_FILES] = before


def _blocks(service: Service) -> Any:
    """The page; its script calls the service's methods by their names, and reads answers from ``/ask``."""
    import gradio

    def ask(request: str) -> Iterator[dict[str, Any]]:
        yield from service.answering.ask(json.loads(request))

    methods = (
        service.start, service.open_picture, service.open_example, service.add_mask, service.mask_png,
        service.segment, service.copies, service.save, service.stop,
    )  # fmt: skip
    with gradio.Blocks(title="pvit-ext demo", analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(
            html_template=read_page("page.html"),
            js_on_load="\n".join(read_page(f"{name}.js") for name in SCRIPTS),
            server_functions=[_plain(method) for method in methods],
            apply_default_css=False,
        )
        gradio.api(ask, api_name="ask", concurrency_limit=None, queue=True)
    blocks.queue(default_concurrency_limit=None)
    return blocks


def _plain(method: Callable[..., dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """A function of the method's name that takes its arguments as one object.

    Gradio puts a mark on such a function, which a bound method does not take.
    """

    def call(given: Any) -> dict[str, Any]:
        (arguments,) = given if isinstance(given, list) else (given,)
        return method(**arguments)

    call.__name__ = method.__name__
    return call


def _launch_options(sessions: Sessions) -> dict[str, Any]:
    import gradio
    from starlette.middleware import Middleware

    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {
        "share": False,
        "quiet": True,
        "prevent_thread_lock": True,
        "ssr_mode": False,
        "footer_links": [],
        "run_history": False,
        "theme": theme,
        "head": f"<style>{read_page('page.css')}</style>",
        "app_kwargs": {"middleware": [Middleware(Gate, sessions=sessions)]},
    }


def read_page(name: str) -> str:
    """A file of the page.

    Args:
        name: of the file.
    """
    return (PAGE / name).read_text(encoding="utf-8")
