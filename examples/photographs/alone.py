"""What seeds share is made by one process: others that run beside it wait, and find it made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pvit_ext.files import lock


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep every other process that asks for the same folder out of the block.

    Args:
        folder: is made; the lock ends with the process that has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with (folder / ".lock").open("a") as stream:  # anew each time: --fresh of another process removes the file
            if lock(stream):
                yield
                return
        time.sleep(0.5)
        folder.mkdir(parents=True, exist_ok=True)
