"""SIGTERM while training: every rank finishes the same step, a checkpoint is saved, and the process ends with 143."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

EXIT_STATUS = 128 + int(signal.SIGTERM)


class Stopped(SystemExit):
    """The run was told to stop and has saved a checkpoint; as an exit status this is 143, a shell's for SIGTERM."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


class StopOnTerm(TrainerCallback):
    """Ends training with a checkpoint after the step in which any rank got SIGTERM.

    Attributes:
        agreed: whether the ranks have decided to stop.
    """

    def __init__(self) -> None:
        self.agreed = False
        self._received = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hold SIGTERM back inside the block, also from data workers started in it.

        A scheduler signals every process of a job, and a data worker that dies takes the step with it. Blocked, the
        signal stays pending here, and workers inherit that; the handler is for threads that were there before. Workers
        that the block leaves behind (persistent ones; others after an error) would not heed the SIGTERM with which
        Python ends them at exit either, and it would wait for them forever: they are killed here.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python handles signals in its main thread alone
            return
        before = set(multiprocessing.active_children())
        handler = signal.signal(signal.SIGTERM, lambda *_: self._received.set())
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            yield
        finally:
            _kill(set(multiprocessing.active_children()) - before)
            if not self.agreed:  # else only the exit is left, and a second SIGTERM must not change its status
                signal.signal(signal.SIGTERM, handler)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop if any rank got the signal during the step."""
        if self._agree(args.device):
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if any rank got the signal while the checkpoint was written: the run resumes from that one."""
        if self._agree(args.device):
            control.should_training_stop = True

    def _agree(self, device: torch.device) -> bool:
        own = self._received.is_set() or signal.SIGTERM in signal.sigpending()
        asked = torch.tensor(float(own), device=device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked)
        self.agreed |= bool(asked)
        return self.agreed


def _kill(children: set[Any]) -> None:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises for a data worker that dies
    for child in children:
        child.kill()
        child.join()
    signal.signal(signal.SIGCHLD, handler)
