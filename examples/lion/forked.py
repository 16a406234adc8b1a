"""``pvit_ext.train`` in a copy of this process: a run begins without a second's import, and leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

TAIL = 30


def train(words: Sequence[str], log: Path) -> None:
    """Train with a command line; what the run prints goes to a file.

    Args:
        words: flags of ``python -m pvit_ext.train``.
        log: file to write.

    Raises:
        RuntimeError: with the end of what it printed when it fails.
    """
    import transformers.trainer  # noqa: F401

    import pvit_ext.train  # noqa: F401, once for all copies

    log.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(list(words), log))
    process.start()
    process.join()
    if process.exitcode:
        with log.open(encoding="utf-8", errors="replace") as file:
            tail = "".join(deque(file, maxlen=TAIL))
        raise RuntimeError(f"training ended with status {process.exitcode}, see {log}:\n{tail}")


def _run(words: list[str], log: Path) -> None:
    import torch

    from pvit_ext.training.run import run_as_program

    with log.open("w", encoding="utf-8") as file:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            os.dup2(file.fileno(), descriptor)  # a test's stream may have none of its own
    torch.set_num_threads(1)  # the threads of the process that was copied are not there
    sys.argv = ["pvit_ext.train", *words]
    run_as_program()
