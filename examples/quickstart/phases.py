"""Phases that are run once: a finished one leaves a marker and is skipped by the next run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pvit_ext.files import atomic_write


class Phases:
    """Runs named phases in order, keeps what each returned and how long it took.

    A phase that runs makes all later ones run again, because they build on it.

    Args:
        folder: everything the phases write; markers go to ``folder/done``.
        settings: what the phases depend on, as plain JSON.
        fresh: start over.
        remedy: what a user can do about a folder that was made with other settings.

    Raises:
        ValueError: when the folder was made with other settings.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], fresh: bool = False, remedy: str = "start over with --fresh"
    ) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        known = folder / "settings.json"
        if known.is_file() and json.loads(known.read_text(encoding="utf-8")) != settings:
            raise ValueError(f"{folder} was made with other settings; {remedy}, or name another --output")
        _write(known, settings)

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        """Do the work, or return what it returned when it was done (plain JSON)."""
        marker = _marker(self.folder, name)
        if marker.is_file():
            done = json.loads(marker.read_text(encoding="utf-8"))
            print(f"[{name}] kept, took {done['seconds']:.0f} s", flush=True)
        else:
            print(f"[{name}]", flush=True)
            for later in marker.parent.glob("*.json"):
                if later.stem not in self.seconds:
                    later.unlink()
            start = time.monotonic()
            done = {"result": work(), "seconds": time.monotonic() - start}
            _write(marker, done)
            print(f"[{name}] {done['seconds']:.0f} s", flush=True)
        self.seconds[name] = round(done["seconds"], 1)
        return done["result"]


def has_run(folder: Path, name: str) -> bool:
    """Whether a phase of a folder has finished."""
    return _marker(folder, name).is_file()


def _marker(folder: Path, name: str) -> Path:
    return folder / "done" / f"{name}.json"


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
