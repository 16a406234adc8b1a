"""Reading the body of a request: no more bytes, and no longer, than one may have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pvit_ext.serving.api_error import ApiError, wrong
from pvit_ext.serving.limits import Limits


@dataclass(frozen=True)
class FormFile:
    """A file of a form.

    Args:
        name: that its client gave.
        data: of it.
    """

    name: str
    data: bytes


class _InMemory(MultiPartParser):
    """Starlette's parser, which would put files of a megabyte on disk."""

    spool_max_size = max_file_size = 2**40  # its name before and since starlette 0.46


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, counted while it comes: a chunked one says no length, and a length may be a lie.

    Raises:
        ApiError: 413, 415 and 408.
        ClientDisconnect: when the client has ended.
    """
    _check_head(request, limits, "application/json")
    with _in_time(limits):
        return b"".join([chunk async for chunk in _chunks(request, limits)])


async def read_form(request: Request, limits: Limits, fields: Sequence[str]) -> dict[str, str | FormFile]:
    """A form, counted as :func:`read_body` does, and held in memory alone.

    Args:
        request: whose body it is.
        limits: of one request.
        fields: that it may have, each once.

    Raises:
        ApiError: 400, 413, 415 and 408.
        ClientDisconnect: when the client has ended.
    """
    _check_head(request, limits, "multipart/form-data")
    try:
        with _in_time(limits):
            form = await _InMemory(request.headers, _chunks(request, limits), max_files=len(fields)).parse()
    except MultiPartException as error:
        raise ApiError(400, f"the body is no form: {error.message}", None, "invalid_form") from error
    found: dict[str, str | FormFile] = {}
    for name, value in form.multi_items():
        if name not in fields:
            message = f"{name[:60]}: there is no such field here; the fields are {', '.join(fields)}"
            raise ApiError(400, message, name[:60], "unknown_field")
        if name in found:
            raise wrong(name, "it is there twice; give it once")
        found[name] = value if isinstance(value, str) else FormFile(value.filename or "", await value.read())
    return found


def _check_head(request: Request, limits: Limits, kind: str) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise ApiError(415, f"Content-Type: the body is {kind}", "Content-Type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "Content-Encoding: the body is not compressed", "Content-Encoding")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limits.body:
        raise _too_large(limits)


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body:
            raise _too_large(limits)
        yield chunk


@contextmanager
def _in_time(limits: Limits) -> Iterator[None]:
    try:
        with anyio.fail_after(limits.seconds):
            yield
    except TimeoutError as error:
        raise ApiError(408, f"the body has not come within {limits.seconds:g} s", None, "timeout") from error


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"body: it may have {limits.body:,} bytes; scale its images down", "body", "too_large")
