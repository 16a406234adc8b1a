"""Errors as OpenAI's clients read them: a status, and JSON that names the field."""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What is wrong with a request.

    Args:
        status: of HTTP.
        message: what was given, what is valid, what to do.
        param: the field, such as ``messages[0].content[1].image_url.url``.
        code: a word for programs.
        retry_after: seconds after which the same request may be taken.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of OpenAI's errors."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Beside the body; the connection of a body that was not read to its end is closed."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        return headers | ({"Connection": "close"} if self.status in (408, 413, 503) else {})


def wrong(param: str, message: str) -> ApiError:
    """A field with a wrong value."""
    return ApiError(400, f"{param}: {message}", param)
