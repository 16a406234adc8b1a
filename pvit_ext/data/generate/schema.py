"""The replies that a language model may give, and their JSON schema for structured outputs."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(_Strict):
    """A question that names regions as [R1], and its answer in words."""

    question: str
    answer: str


class Dialogue(_Strict):
    """The reply to a request for questions and answers."""

    turns: list[Turn]


class Phrase(_Strict):
    """A phrase of the description, and the name of the region that it speaks of."""

    phrase: str
    region: str


class Description(_Strict):
    """The reply to a request for a detailed description and its grounding."""

    description: str
    grounding: list[Phrase]


ReplyT = TypeVar("ReplyT", bound=BaseModel)


@lru_cache
def response_format(kind: type[BaseModel]) -> dict[str, Any]:
    """The ``response_format`` of a request: OpenAI's strict subset, which other servers take too; not to be changed."""
    schema = _inlined(kind.model_json_schema())
    return {"type": "json_schema", "json_schema": {"name": kind.__name__.lower(), "strict": True, "schema": schema}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without ``$defs``, titles and descriptions: llama.cpp and older servers take no references."""
    definitions = schema.get("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rpartition("/")[2]])
        dropped = ("$defs", "title", "description") if node.get("type") in ("object", "string", "array") else ()
        return {
            key: {name: resolve(item) for name, item in value.items()} if key == "properties" else resolve(value)
            for key, value in node.items()
            if key not in dropped
        }

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def parse(text: str, kind: type[ReplyT]) -> ReplyT:
    """The reply in a message, also in a code fence or with words around it.

    Raises:
        ValueError: saying in one line what is wrong.
    """
    try:
        value = json.loads(_json_part(text), object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no valid JSON ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise ValueError("it is no usable JSON: nested too deeply") from error
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"])) or "the reply"
        raise ValueError(f"it does not fit the schema: {path}: {first['msg']}") from error


def _json_part(text: str) -> str:
    """What stands in the first code fence, else the whole."""
    _, fence, rest = text.partition("```")
    if not fence:
        return text.strip()
    body, end, _ = rest.partition("```")
    return (body.removeprefix("json") if end else rest.removeprefix("json")).strip()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is given twice in an object")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no valid JSON")
