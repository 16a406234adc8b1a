"""Images that clients upload once and name in many requests: held in memory alone, for a bounded time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pvit_ext.serving.api_error import ApiError

ID_PREFIX = "file-"


@dataclass(frozen=True)
class FileId:
    """The name of an upload, where a request may also hold a text of another kind.

    Args:
        id: by :class:`Uploads`.
    """

    id: str


@dataclass(frozen=True)
class UploadLimits:
    """Of all uploads together.

    Args:
        files: number of them.
        bytes: of them.
        seconds: after which one is forgotten.
    """

    files: int = 100
    bytes: int = 256 * 2**20
    seconds: float = 3600.0


@dataclass(frozen=True)
class Upload:
    """One file.

    Args:
        id: by which requests name it.
        name: that its client gave.
        purpose: that its client gave.
        data: of it.
        created, expires: seconds since 1970.
    """

    id: str
    name: str
    purpose: str
    data: bytes
    created: float
    expires: float

    def shown(self) -> dict[str, Any]:
        """As OpenAI's ``file`` object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": int(self.created),
            "expires_at": int(self.expires),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class Uploads:
    """Files that are kept until they expire, are deleted or the server ends.

    Args:
        limits: of all of them.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        limits: UploadLimits = UploadLimits(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits, self._clock, self._lock = limits, clock, threading.Lock()
        self._files: dict[str, Upload] = {}

    @property
    def held(self) -> int:
        """Bytes of all files that are kept."""
        return sum(len(one.data) for one in self.all())

    def all(self) -> list[Upload]:
        """The files, in the order in which they came."""
        with self._lock:
            return self._current()

    def forget_expired(self) -> None:
        """Free what has expired; to be called now and then while nothing else is."""
        with self._lock:
            self._current()

    def add(self, name: str, purpose: str, data: bytes, seconds: float | None = None) -> Upload:
        """Keep a file.

        Args:
            name, purpose: that its client gave.
            data: of it.
            seconds: for which it is kept, at most those of the limits; None for these.

        Raises:
            ApiError: 413 for a file that is larger than all may be, 429 while others fill its place.
        """
        most, now = self.limits, self._clock()
        if len(data) > most.bytes:
            raise ApiError(
                413,
                f"file: it has {len(data):,} bytes; all uploads together may have {most.bytes:,}",
                "file",
                "too_large",
            )
        kept = min(most.seconds, most.seconds if seconds is None else seconds)
        made = Upload(ID_PREFIX + secrets.token_hex(16), name, purpose, data, now, now + kept)
        with self._lock:
            others = self._current()
            if len(others) >= most.files or sum(len(one.data) for one in others) + len(data) > most.bytes:
                raise ApiError(
                    429,
                    f"file: {len(others)} uploads are kept, and {most.files} files with {most.bytes:,} bytes together "
                    "may be; delete one, or wait until one expires",
                    "file",
                    "uploads_full",
                    min(one.expires for one in others) - now,
                )
            self._files[made.id] = made
        return made

    def get(self, file_id: str, param: str, status: int = 400) -> Upload:
        """A file by its name.

        Args:
            file_id: of it.
            param: the field that holds it.
            status: of the error.

        Raises:
            ApiError: when there is none.
        """
        with self._lock:
            self._current()
            found = self._files.get(file_id)
        if found is None:
            raise not_found(file_id, param, status)
        return found

    def delete(self, file_id: str, param: str, status: int = 400) -> None:
        """Forget a file; see :meth:`get`."""
        self.get(file_id, param, status)
        with self._lock:
            self._files.pop(file_id, None)

    def _current(self) -> list[Upload]:
        """Those that have not expired; the others are forgotten."""
        now = self._clock()
        self._files = {name: one for name, one in self._files.items() if one.expires > now}
        return list(self._files.values())


def not_found(file_id: str, param: str, status: int = 400) -> ApiError:
    """There is no such upload.

    Args:
        file_id: that was asked for.
        param: the field that holds it.
        status: of the error.
    """
    message = f"{param}: there is no file {file_id[:60]!r} here; it was never uploaded, was deleted or expired"
    return ApiError(status, message, param, "file_not_found")
