"""Reading the body of a request: no more bytes, and no longer, than one may have."""

from __future__ import annotations

import anyio
from starlette.requests import Request

from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.limits import Limits


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, counted while it comes: a chunked one says no length, and a length may be a lie.

    Raises:
        ApiError: 411, 413, 415 and 408.
        ClientDisconnect: when the client has ended.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Content-Type: the body is application/json", "Content-Type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "Content-Encoding: the body is not compressed", "Content-Encoding")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limits.body:
        raise _too_large(limits)
    parts, size = [], 0
    try:
        with anyio.fail_after(limits.seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body:
                    raise _too_large(limits)
                parts.append(chunk)
    except TimeoutError as error:
        raise ApiError(408, f"the body has not come within {limits.seconds:g} s", None, "timeout") from error
    return b"".join(parts)


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"body: it may have {limits.body:,} bytes; scale its images down", "body", "too_large")


async def disconnected(request: Request) -> None:
    """Return when the client has ended; for a request whose body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
