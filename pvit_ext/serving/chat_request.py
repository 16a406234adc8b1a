"""The body of ``/v1/chat/completions``: which fields are taken, checked one by one; unknown ones are named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, ValidationError

from pvit_ext.serving.answer import Settings
from pvit_ext.serving.api_error import ApiError, wrong
from pvit_ext.serving.limits import Limits


def _without_nulls(value: Any) -> Any:
    """Keys that are null are absent: clients send back whole messages as they came."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Strict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where an image is: a ``data:`` URL, or what the server was told to take."""

    url: str
    detail: Literal["auto"] = "auto"


class ImagePart(_Strict):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class FileSource(_Strict):
    """An image that was uploaded before, or its bytes; the name of bytes says nothing more."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FilePart(_Strict):
    """An image as OpenAI's clients send files."""

    type: Literal["file"]
    file: Annotated[FileSource, BeforeValidator(_without_nulls)]


class RegionPart(BaseModel):
    """A region where it stands in the text; its other keys are those of a region in our data files."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: Literal["region"]


Part = Annotated[TextPart | ImagePart | FilePart | RegionPart, Discriminator("type")]


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Message(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_parts)]


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """The body; fields with one literal value are taken at the value that changes nothing."""

    model: str
    messages: list[Annotated[Message, BeforeValidator(_without_nulls)]] = Field(min_length=1)
    regions: list[Any] = []
    lion_task: str | None = None
    tags: list[str] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[Annotated[str, Field(min_length=1)]] = Field([], max_length=4)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: int = Field(1, ge=1)
    frequency_penalty: float = Field(0.0, ge=0, le=0)
    presence_penalty: float = Field(0.0, ge=0, le=0)
    logprobs: Literal[False] = False

    def settings(self, limits: Limits) -> list[Settings]:
        """How each different choice is generated: one stands for all where they are the likeliest answer.

        With a seed, choice k is the answer that ``seed + k`` gets alone.

        Args:
            limits: of one request.

        Raises:
            ApiError: 400 naming the field.
        """
        if self.n > limits.choices:
            raise wrong("n", f"{self.n} is more than the {limits.choices} answers that a question may have here")
        if self.top_p < 1 and "temperature" not in self.model_fields_set:
            raise wrong("top_p", "without a temperature the likeliest token is taken each time; give temperature too")
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "it is for streams; give stream: true, or leave it out")
        tokens, count = self._tokens(limits.tokens), self.n if self.temperature > 0 else 1
        seeds = [None if self.seed is None else self.seed + number for number in range(count)]
        return [Settings(tokens, self.temperature, self.top_p, seed, tuple(self.stop)) for seed in seeds]

    def _tokens(self, most: int) -> int:
        given = {name: getattr(self, name) for name in ("max_tokens", "max_completion_tokens") if getattr(self, name)}
        if len(set(given.values())) > 1:
            raise wrong("max_tokens", f"it is {self.max_tokens}, max_completion_tokens another; give one of them")
        for name, tokens in given.items():
            if tokens > most:
                raise wrong(name, f"{tokens} is more than the {most} tokens that an answer may have here")
        return next(iter(given.values()), most)


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a key that an object has twice."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise wrong(key[:60], "it is there twice in one object; give it once")
        seen.add(key)


def read_request(body: bytes) -> ChatRequest:
    """The checked body.

    Raises:
        ApiError: 400 naming the field.
    """
    from pydantic_core import from_json

    try:
        value = _without_nulls(from_json(body, allow_inf_nan=False))
        json.loads(body, object_pairs_hook=_once)  # the reader above takes the last one of a key in silence
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}", None, "invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is a JSON object, got {type(value).__name__}", None, "invalid_json")
    if isinstance(value.get("stop"), str):
        value["stop"] = [value["stop"]]
    try:
        return ChatRequest.model_validate(value)
    except ValidationError as error:
        raise _first(error) from error


def _first(error: ValidationError) -> ApiError:
    """The first problem, with its field as a path."""
    found = error.errors(include_url=False, include_context=False)[0]
    param = path_of(found["loc"])
    if found["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: there is no such field here; leave it out", param, "unknown_field")
    given = repr(found["input"])
    shown = given if len(given) <= 60 else given[:57] + "..."
    missing = found["type"] == "missing"
    return wrong(param, "it is missing" if missing else f"{found['msg']}, got {shown}")


def path_of(location: Sequence[int | str]) -> str:
    """``messages[0].content[1].image_url.url``, from a location of pydantic's, which names the kind of a part too."""
    path, part = "", False
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not part:
            path += f".{step}" if path else step
        part = isinstance(step, int) and path.rpartition("[")[0].endswith("content")
    return path
