"""The text of a reply's message from its raw bytes, or why there is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


class BadReply(ValueError):
    """A reply that cannot be used; asking once more may help."""


class Refused(ValueError):
    """The model or a filter declined; asking the same again does not help."""


@dataclass(frozen=True)
class Usage:
    """Tokens that a call was charged for."""

    input_tokens: int = 0
    output_tokens: int = 0


def read_body(raw: str) -> dict[str, Any]:
    """The JSON object of a successful reply.

    Raises:
        ValueError: where the endpoint did not really reply: no JSON, or an error with status 200.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the reply is no JSON: {raw[:80]!r}") from error
    if not isinstance(body, dict):
        raise ValueError(f"the reply is no JSON object: {raw[:80]!r}")
    if body.get("error") and not body.get("choices"):
        raise ValueError(f"an error with status 200: {str(body['error'])[:200]}")
    return body


def message_text(body: dict[str, Any]) -> str:
    """The text of the first choice.

    Raises:
        Refused: by the model, or by a content filter.
        BadReply: if there is no text, or only a part of it.
    """
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadReply("the reply has no choices")
    message, ended = choices[0].get("message"), choices[0].get("finish_reason")
    message = message if isinstance(message, dict) else {}
    if ended == "content_filter":
        raise Refused("a content filter withheld the reply")
    if refusal := message.get("refusal"):
        raise Refused(f"the model refused: {str(refusal)[:200]}")
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        raise BadReply("the reply is empty")
    if ended == "length":
        raise BadReply("the reply was cut off at the limit of its length; be shorter")
    return text


def usage_of(body: dict[str, Any]) -> Usage:
    """Tokens as the endpoint counted them; zeros where it does not say."""
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    return Usage(*(count if isinstance(count, int) and count > 0 else 0 for count in counts))
