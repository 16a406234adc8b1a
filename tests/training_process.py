"""A training process whose output a test reads, and that a test stops or kills."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

RECIPES = Path(__file__).parents[1] / "recipes"


class Run:
    """A training process, or a launcher and its ranks, read line by line."""

    def __init__(self, words: list[str], site: Path | None = None, kill_at: str = "", file_limit: int | None = None):
        ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        environment = {key: value for key, value in os.environ.items() if key not in ours}
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self.launched = Path(words[0]).name == "deepspeed"
        if self.launched:
            environment["DS_ACCELERATOR"] = "cpu"
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        paths = [str(RECIPES.parent), environment.get("PYTHONPATH", "")]
        if site:
            paths.insert(0, str(site))
            environment["KILL_AT"] = kill_at
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            preexec_fn=None if file_limit is None else lambda: _limit_files(file_limit),
        )  # fmt: skip

    def until_losses(self, count: int) -> None:
        """Read until ``count`` steps are logged."""
        seen = 0
        while seen < count and (line := self._line()):
            seen += "'loss'" in line
        assert seen == count, self.text

    def ranks(self) -> list[psutil.Process]:
        """The ids of the processes that train: one alone, or those below DeepSpeed's command and its launcher."""
        first = psutil.Process(self.process.pid)
        return first.children()[0].children() if self.launched else [first]

    def kill(self) -> None:
        """Send SIGKILL to every process at once."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> int:
        """Read on to the end; return the exit status."""
        while self._line():
            pass
        return self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.lines.append(line)
        return line

    @property
    def text(self) -> str:
        """All that was printed."""
        return "".join(self.lines)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def finish(words: list[str], **options: Any) -> Run:
    """A run that must succeed."""
    run = Run(words, **options)
    assert run.end() == 0, run.text
    return run
