"""The command as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def process(
    checkpoint: Path, *options: str, device: str = "cpu", **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running command and its address."""
    command = [sys.executable, "-m", "pvit_ext.cli", "serve", "--model", str(checkpoint), "--device", device]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--port", "0", *options], env=env, stderr=pipe, text=True, cwd=ROOT) as running:
        assert running.stderr is not None
        reader = threading.Thread(target=running.stderr.read, daemon=True)
        try:
            address = _address(running)
            reader.start()
            yield running, address
        finally:
            if running.poll() is None:
                running.kill()
            if reader.is_alive():
                reader.join()  # before its file is closed


def _address(running: subprocess.Popen[str]) -> str:
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if found := re.search(r"http://[\d.:]+", line):
            return found[0]
    raise RuntimeError(f"the server ended with {running.wait()} before it gave an address:\n{''.join(said)[-3000:]}")
