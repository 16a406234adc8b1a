"""A call of the language model: its body, and the key under which its reply is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import BaseModel

from pvit_ext.data.generate.schema import response_format
from pvit_ext.data.html_page import jpeg_data_url
from pvit_ext.files import sha256_file
from pvit_ext.regions.drawing import draw_regions
from pvit_ext.regions.image import load_image
from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import Region

Images = Literal["none", "plain", "marked"]
Format = Literal["json_schema", "json_object", "none"]
Message = dict[str, Any]
CHARACTERS_PER_TOKEN = 3.5
_FLAGS = {
    "model": "--model",
    "seed": "--seed",
    "temperature": "--temperature",
    "max_tokens": "--max-tokens",
    "max_completion_tokens": "--max-tokens",
    "response_format": "--response-format",
}
"""Keys of a body that are not further ones: requests and records would say different things."""
IMAGE_TOKENS = 1100
"""What servers charge for an image of about a thousand pixels a side, give or take a half."""


@dataclass(frozen=True)
class CallOptions:
    """What all calls of a run share.

    Args:
        model: its name at the endpoint.
        images: whether the image goes along, and whether its regions are drawn into it.
        image_side: its longer side when it is sent, pixels.
        response_format: how the reply's form is asked for.
        temperature: of sampling; None: the endpoint's own.
        seed: of sampling and of the choice of regions.
        max_tokens: of a reply.
        max_tokens_name: what the endpoint calls that.
        extra: further keys of the body.

    Raises:
        ValueError: for one of ``extra`` that is no further key.
    """

    model: str
    images: Images = "none"
    image_side: int = 1024
    response_format: Format = "json_schema"
    temperature: float | None = None
    seed: int = 0
    max_tokens: int = 1500
    max_tokens_name: str = "max_completion_tokens"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.extra:
            if key in _FLAGS:
                raise ValueError(f"--extra holds {key!r}, which {_FLAGS[key]} gives; leave it out of --extra")
            if key == "messages":
                raise ValueError("--extra holds 'messages', which each call has its own of; leave it out")
            if key == "stream":
                raise ValueError("--extra holds 'stream'; replies are read whole, leave it out")


@dataclass(frozen=True)
class ImagePart:
    """An image of a message, read when it is sent.

    Args:
        file: its path.
        side: its longer side when it is sent, pixels; a smaller image is not enlarged.
        marks: boxes to draw and number, fractions of the image.
    """

    file: str
    side: int
    marks: tuple[Box, ...] = ()

    def mark(self) -> dict[str, Any]:
        """What tells it from any other, without decoding it."""
        return {
            "sha256": _sha256(self.file),
            "side": self.side,
            "marks": [[round(x, 5) for x in b] for b in self.marks],
        }

    def data_url(self) -> str:
        """The image as a JPEG in a data URL."""
        image = load_image(self.file)
        side = min(self.side, max(image.size))
        if self.marks:
            width, height = image.size
            boxes = [Region.box(a * width, b * height, c * width, d * height) for a, b, c, d in self.marks]
            image = draw_regions(image, boxes, side)
        elif side < max(image.size):
            image.thumbnail((side, side))
        return jpeg_data_url(image, 90)


def _sha256(file: str) -> str:
    status = os.stat(file)
    return _sha256_of(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 20)
def _sha256_of(file: str, size: int, changed: int) -> str:
    """Read once for all calls and passes; size and time tell one state of the file from another."""
    return sha256_file(file)


@dataclass(frozen=True)
class Request:
    """One call.

    Args:
        job: whose it is.
        messages: of the chat; an image is an ``ImagePart`` in a list of parts.
        kind: of the reply.
        options: of the run.
    """

    job: str
    messages: Sequence[Message]
    kind: type[BaseModel]
    options: CallOptions

    @cached_property
    def key(self) -> str:
        """Hash of all that is sent: model, messages, schema, options, and the bytes of image files."""
        body = self._body(lambda part: {"image": part.mark()})
        text = json.dumps(body, sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def body(self) -> dict[str, Any]:
        """The body of the HTTP request.

        Raises:
            ImageError: for an image that cannot be decoded.
        """
        return self._body(lambda part: {"type": "image_url", "image_url": {"url": part.data_url()}})

    @property
    def input_tokens(self) -> int:
        """An estimate, from the number of characters."""
        images = sum(isinstance(part, ImagePart) for message in self.messages for part in _parts(message))
        text = sum(len(part) for message in self.messages for part in _parts(message) if isinstance(part, str))
        return round(text / CHARACTERS_PER_TOKEN) + images * IMAGE_TOKENS + 8 * len(self.messages)

    def _body(self, write_image: Any) -> dict[str, Any]:
        options = self.options
        body: dict[str, Any] = {"model": options.model, "messages": [_written(m, write_image) for m in self.messages]}
        if options.response_format == "json_schema":
            body["response_format"] = response_format(self.kind)
        elif options.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        if options.temperature is not None:
            body["temperature"] = options.temperature
        return {**body, "seed": options.seed, options.max_tokens_name: options.max_tokens, **options.extra}


def _parts(message: Message) -> Sequence[Any]:
    content = message["content"]
    return [content] if isinstance(content, str) else content


def _written(message: Message, write_image: Any) -> Message:
    if isinstance(message["content"], str):
        return message
    parts = [
        write_image(part) if isinstance(part, ImagePart) else {"type": "text", "text": part}
        for part in message["content"]
    ]
    return {**message, "content": parts}
