"""The bounded queue in front of the engine, which hands out what has come as one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from pvit_ext.serving.answer import Answer

WINDOWS = 4
"""Answers go out together and their clients ask again together, as fast as bodies are read: a few windows, not one."""


class QueueFull(RuntimeError):
    """No place is free; ask again later.

    Attributes:
        seconds: after which a place is likely to be free.
    """

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(f"{waiting} questions are waiting, no more are taken; ask again in {seconds:.0f} s")
        self.seconds = seconds


class Draining(RuntimeError):
    """No questions are taken any more; those that were are still answered."""


class Waiting:
    """Questions in the order in which they came.

    Args:
        places: most that wait.
        most: of a batch.
        window: seconds to wait for one more question after each that comes, at most :data:`WINDOWS` of them together.
    """

    def __init__(self, places: int, most: int, window: float) -> None:
        self.places, self.most, self.window = places, most, window
        self._answers: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def closed(self) -> bool:
        """Whether no questions are taken any more."""
        return self._closed

    def put(self, answers: Sequence[Answer], seconds: float) -> None:
        """Add some, all or none.

        Args:
            answers: to be made.
            seconds: after which a place is likely to be free, for the error.

        Raises:
            QueueFull, Draining: when they are not taken.
        """
        with self._changed:
            if self._closed:
                raise Draining("the server is shutting down and takes no more questions")
            if len(self._answers) + len(answers) > self.places:
                raise QueueFull(len(self._answers), seconds)
            self._answers += answers
            self._changed.notify_all()

    def take(self) -> list[Answer]:
        """Wait for a question and return it with those that have come; none once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._answers or self._closed)
            last = time.monotonic() + WINDOWS * self.window
            while 0 < (count := len(self._answers)) < self.most and not self._closed:
                more = partial(self._has_changed, count)
                if not self._changed.wait_for(more, min(self.window, last - time.monotonic())):
                    break
            return [self._answers.popleft() for _ in range(min(self.most, len(self._answers)))]

    def _has_changed(self, count: int) -> bool:
        return len(self._answers) != count or self._closed

    def drop(self, answer: Answer) -> None:
        """Free the place of one that nobody waits for; nothing happens when it has none."""
        with self._changed:
            if answer in self._answers:
                self._answers.remove(answer)

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
