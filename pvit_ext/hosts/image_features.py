"""What a model's towers made of images, kept between questions on the same image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class ImageFeatures:
    """Outputs of towers by the content of the image and the state of the tower; those used last are kept.

    An image is found again whatever its path, and never after its file, the model or the way of preparing it has
    changed. Outputs stay on the tower's device. Threads may share one.

    Args:
        max_bytes: that are kept, 1 or more; an image that takes more is not kept.

    Attributes:
        bytes: that are kept now.
        hits, misses: how often an output was there, and how often it was made.

    Raises:
        ValueError: for another ``max_bytes``.
    """

    def __init__(self, max_bytes: int) -> None:
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes!r}; give a number of bytes, such as 2 * 1024**3")
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """What is kept under a key, else what ``make`` gives, which is kept from now on.

        Two threads that miss at the same time both make it.

        Args:
            key: all that decides about the value.
            make: called without a lock.
            size: bytes of a value.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                self.hits += 1
                found: T = self._kept[key][0]
                return found
            self.misses += 1
        value = make()
        self._keep(key, value, size(value))
        return value

    def clear(self) -> None:
        """Drop all that is kept."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def _keep(self, key: Hashable, value: Any, size: int) -> None:
        with self._lock:
            if size > self.max_bytes or key in self._kept:
                return
            self._kept[key] = value, size
            self.bytes += size
            while self.bytes > self.max_bytes:
                self.bytes -= self._kept.popitem(last=False)[1][1]
