"""One step as a process, which ends with all that it started: the next one needs the GPU's memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

MARK = "PVIT_EXT_GPU_STEP"
"""An environment variable that processes of a step inherit, also those in sessions of their own."""
TRIES = 100
"""A process that waits for a device may not die at once, or never."""
_LAST = 1.0
"""Seconds for a killed process to be gone."""


def run(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str]) -> str:
    """Run a command to its end or for so many seconds, and end whatever it leaves behind.

    Args:
        command: program and arguments.
        seconds: from now.
        log: gets all that it prints.
        environment: its variables.

    Returns:
        ``passed``, or what went wrong.
    """
    mark = uuid.uuid4().hex
    with log.open("wb") as file:
        # A pipe would stay open for as long as any grandchild lives.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env={**environment, MARK: mark}, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout=seconds)
            outcome = "passed" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {seconds:.0f} s"
        finally:
            ended = end(process, mark)
    return outcome if ended else f"{outcome}; what it started could not be ended"


def end(process: subprocess.Popen[bytes], mark: str) -> bool:
    """Kill a process, its group, and all that carry its mark; whether none of them is left."""
    if process.returncode is None:  # else its id may be another's by now
        _kill(os.killpg, process.pid)
    for _ in range(TRIES):  # until none is left that could start one more
        if not (found := marked(mark)):
            break
        for pid in found:
            _kill(os.kill, pid)
        time.sleep(0.05)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_LAST)
    return process.returncode is not None and not marked(mark)


def marked(mark: str) -> list[int]:
    """Running processes whose environment has the mark; none where there is no /proc."""
    sought, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # A zombie's environment is empty.
            if sought in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # another user's, or gone
            continue
    return found


def _kill(kill: Callable[[int, int], None], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        kill(pid, signal.SIGKILL)
