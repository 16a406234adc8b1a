"""What one request may bring, and how much of that all requests together may hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pvit_ext.serving.api_error import ApiError


@dataclass(frozen=True)
class Limits:
    """Of one request.

    Args:
        body: bytes.
        pixels: of all its images and masks together.
        images: number of them.
        regions: number of them, masks of alpha channels included.
        points: of one region.
        tokens: of the answer; also what a request gets that asks for no number.
        choices: answers to its question.
        seconds: from its first byte to its last answer's.
        requests: at once, being read, waiting or answered.
    """

    body: int = 32 * 2**20
    pixels: int = 64_000_000
    images: int = 8
    regions: int = 64
    points: int = 1000
    tokens: int = 512
    choices: int = 8
    seconds: float = 120.0
    requests: int = 144


_DECODERS = 4
"""Requests whose bodies and images are decoded at once."""
_REQUESTS_OF_MOST_PIXELS = 8
"""How many of the largest requests may be held at once, decoded: 3 bytes a pixel."""


def check_pixels(limits: Limits, pixels: int, param: str) -> None:
    """Refuse more than one request may have.

    Args:
        limits: of one request.
        pixels: of its images and masks so far.
        param: the field of the last of them.

    Raises:
        ApiError: 400 naming the field.
    """
    if pixels > limits.pixels:
        raise ApiError(
            400,
            f"{param}: with it the images and masks of the request have {pixels:,} pixels; at most {limits.pixels:,} "
            "are taken: scale them down",
            param,
            "too_many_pixels",
        )


class Places:
    """Places of requests, and the pixels that they hold together.

    Args:
        limits: of one request, and of their number.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self._lock = limits, threading.Lock()
        self.decoders = threading.Semaphore(_DECODERS)
        self.requests = self.pixels = 0

    def enter(self, patience: float) -> Place:
        """Take a place.

        Args:
            patience: seconds after which one is likely to be free.

        Raises:
            ApiError: 429 when none is free.
        """
        with self._lock:
            if self.requests >= self.limits.requests:
                raise ApiError(429, f"{self.requests} requests are being served, no more are taken; ask again in "
                               f"{patience:.0f} s", None, "queue_full", patience)  # fmt: skip
            self.requests += 1
        return Place(self)

    def change(self, requests: int, pixels: int) -> bool:
        """Take or give back; False where so many pixels are not free."""
        with self._lock:
            free = _REQUESTS_OF_MOST_PIXELS * self.limits.pixels - self.pixels
            if pixels > free:
                return False
            self.requests += requests
            self.pixels += pixels
            return True


class Place:
    """What one request holds, until its time is over.

    Attributes:
        until: time of ``time.monotonic`` by which its last answer must have come.
    """

    def __init__(self, places: Places) -> None:
        self._places, self._pixels, self._held, self._decodes = places, 0, True, False
        self.until = time.monotonic() + places.limits.seconds

    def remaining(self, param: str) -> float:
        """Seconds that are free for one of its images.

        Args:
            param: the field of the image.

        Raises:
            ApiError: 408 when there are none, also since nobody waits any more.
        """
        if (seconds := self.until - time.monotonic()) <= 0:
            raise self.late(param)
        return seconds

    def late(self, param: str) -> ApiError:
        """Its images took too long."""
        seconds = self._places.limits.seconds
        message = f"{param}: it is not read within the {seconds:g} s of the request; send fewer or smaller images"
        return ApiError(408, message, param, "timeout")

    def give_up(self) -> None:
        """Decode no further image: nobody waits for the answer."""
        self.until = 0.0

    @contextmanager
    def decoding(self, param: str) -> Iterator[None]:
        """Decode its body and images, as one of few at the same time.

        Args:
            param: the field to name.

        Raises:
            ApiError: 408 when its time ends before it begins.
        """
        self._begin(param)
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def fetching(self, param: str) -> Iterator[None]:
        """Let others decode while one of its images comes from elsewhere; see :meth:`decoding`."""
        decodes = self._decodes
        self._end()
        try:
            yield
        finally:
            if decodes:
                self._begin(param)

    def _begin(self, param: str) -> None:
        if not self._places.decoders.acquire(timeout=self.remaining(param)):
            raise self.late(param)
        self._decodes = True

    def _end(self) -> None:
        if self._decodes:
            self._decodes = False
            self._places.decoders.release()

    @property
    def pixels(self) -> int:
        """Of its images and masks."""
        return self._pixels

    def take(self, pixels: int, param: str) -> None:
        """Hold an image or mask, before it is decoded.

        Args:
            pixels: of it.
            param: its field.

        Raises:
            ApiError: 400 when the request has too many pixels, 429 when all requests together have, 408 when its time
                is over.
        """
        self.remaining(param)
        check_pixels(self._places.limits, self._pixels + pixels, param)
        if not self._places.change(0, pixels):
            raise ApiError(429, "the images of other requests fill the memory; ask again soon", None, "queue_full", 2)
        self._pixels += pixels

    def leave(self) -> None:
        """Give all back; nothing happens the second time."""
        if self._held:
            self._held = False
            self._places.change(-1, -self._pixels)
