"""Calls of an OpenAI-compatible endpoint, tried again where that may help."""

from __future__ import annotations

import email.utils
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import openai
import tenacity

from pvit_ext.data.generate.reply import read_body

MAX_WAIT = 120.0
"""Seconds that an endpoint may ask for; a longer wait is cut to this, and asked again."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second try at most, and before any, where the endpoint does not say; doubled each time."""


class CallFailed(ValueError):
    """A call without a reply after all tries; a later run may have more luck."""


class NotTaken(ValueError):
    """A request that the endpoint does not take, and will not: too long, or malformed for it."""


class EndpointUnusable(ValueError):
    """No call can succeed: wrong key, unknown model, no credit."""


class _Transient(Exception):
    """A failure that may pass.

    Args:
        reason: in one line.
        wait: seconds that the endpoint asks for, None where it does not say.
        busy: it has too many calls.
    """

    def __init__(self, reason: str, wait: float | None = None, busy: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.busy = wait, busy


class Client(Protocol):
    """What a run needs of an endpoint."""

    async def complete(self, body: dict[str, Any], pause: Callable[[float], None]) -> str:
        """The raw body of a reply."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


@dataclass(frozen=True)
class Endpoint:
    """Where calls go.

    Args:
        base_url: such as ``http://localhost:8000/v1``; None: OpenAI's.
        key_name: of the environment variable with the key; the key itself is written nowhere.
        timeout: seconds for one try.
        tries: of one call.
    """

    base_url: str | None = None
    key_name: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    tries: int = 6

    def api_key(self) -> str:
        """The key.

        Raises:
            ValueError: if there is none, and the endpoint is not one of the user's own.
        """
        if key := os.environ.get(self.key_name):
            return key
        if self.base_url is None:
            raise ValueError(f"no key in the environment variable {self.key_name}; set it, or give --base-url")
        return "none"


class OpenAIClient:
    """The client of one endpoint; used within one event loop.

    Args:
        endpoint: where calls go.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        # Tries are made here, with a limit on the wait, and counted; the client's own would hide them.
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.api_key(), base_url=endpoint.base_url, timeout=endpoint.timeout, max_retries=0
        )
        self._backoff = tenacity.wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def complete(self, body: dict[str, Any], pause: Callable[[float], None]) -> str:
        """The raw body of a reply.

        Args:
            body: of a request for a chat completion.
            pause: called with the seconds for which the endpoint wants no call at all.

        Raises:
            CallFailed: after all tries.
            NotTaken: at once.
            EndpointUnusable: at once.
        """

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, _Transient) else None
            seconds = float(self._backoff(state)) if asked is None else min(asked, MAX_WAIT)
            if isinstance(error, _Transient) and error.busy:
                pause(seconds)
            return seconds

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Transient),
            wait=wait,
            stop=tenacity.stop_after_attempt(self.endpoint.tries),
            reraise=True,
        )
        call: Callable[[dict[str, Any]], Awaitable[str]] = retrying.wraps(self._try)
        try:
            return await call(body)
        except _Transient as error:
            raise CallFailed(f"no reply after {self.endpoint.tries} tries: {error}") from error

    async def _try(self, body: dict[str, Any]) -> str:
        try:
            reply = await self._client.chat.completions.with_raw_response.create(**_arguments(body))
            raw = reply.http_response.content.decode("utf-8")
            read_body(raw)
        except openai.APITimeoutError as error:
            raise _Transient(f"timed out after {self.endpoint.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise _Transient(f"connection: {error.__cause__ or error}") from error
        except openai.APIStatusError as error:
            raise _status_error(error.status_code, error.response.headers, error.response.text) from error
        except ValueError as error:  # bytes that are no UTF-8, a body that is no reply
            raise _Transient(str(error)[:300]) from error
        return raw


_KNOWN = {
    "model", "messages", "response_format", "temperature", "seed", "max_tokens", "max_completion_tokens", "top_p", "n",
}  # fmt: skip


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """The client's arguments; what it does not know goes along as it is."""
    known = {key: value for key, value in body.items() if key in _KNOWN}
    extra = {key: value for key, value in body.items() if key not in _KNOWN}
    return {**known, "extra_body": extra} if extra else known


def _status_error(status: int, headers: Mapping[str, str], text: str) -> Exception:
    message, code = _message(text)
    said = f"status {status}: {message}"
    if status in (401, 403, 404) or code == "insufficient_quota":
        return EndpointUnusable(f"the endpoint says {said}; no call can succeed until that is put right")
    retry = headers.get("x-should-retry")
    if retry != "false" and (retry == "true" or status in (408, 409, 429) or status >= 500):
        return _Transient(said, retry_after(headers), busy=status in (429, 503))
    return NotTaken(said)


def _message(text: str) -> tuple[str, str | None]:
    try:
        error = json.loads(text)["error"]
        return str(error["message"])[:300], error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(text.split())[:100] or "(no body)", None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait; None where it does not say, or names a time that has passed."""
    seconds: float | None = None
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            seconds = float(milliseconds) / 1000
        elif (value := headers.get("retry-after")) is not None:
            date = email.utils.parsedate_to_datetime(value) if not value.strip()[:1].isdigit() else None
            seconds = date.timestamp() - time.time() if date else float(value)
    except (ValueError, TypeError):
        return None
    return seconds if seconds is not None and seconds > 0 else None
