"""From the messages of a request to a query: turns, images where they belong, regions in the order of their words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pvit_ext.data.region_fields import in_json, parse_region
from pvit_ext.prompt import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER, find_placeholders, hint_of_tags
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region, RegionError
from pvit_ext.serving.api_error import ApiError, wrong
from pvit_ext.serving.chat_request import ChatRequest, FilePart, ImagePart, Message, RegionPart, TextPart
from pvit_ext.serving.image_loader import ImageLoader, LoadedImage
from pvit_ext.serving.limits import Place
from pvit_ext.serving.uploads import FileId
from pvit_ext.tokens.query import Query

MASKED_REGION = "the masked region"
"""The words of Describe Anything's clients for what the alpha channel marks."""


@dataclass
class _Reader:
    """Reads one request; regions are collected in the order of their ``<region>``."""

    request: ChatRequest
    loader: ImageLoader
    place: Place
    images: list[LoadedImage] = field(default_factory=list)
    regions: list[tuple[Any, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._explicit = iter([(item, f"regions[{number}]") for number, item in enumerate(self.request.regions)])
        self._plain = self._own = self._alpha = 0

    def count(self, param: str, plain: int = 0, own: int = 0, alpha: int = 0) -> None:
        """Count regions before they are read.

        Args:
            param: the field that brings them.
            plain: ``<region>`` that the body's regions or masks of alpha channels fill.
            own: inline markup and regions among the parts.
            alpha: masks of alpha channels.

        Raises:
            ApiError: 400 when the request has too many.
        """
        self._plain, self._own, self._alpha = self._plain + plain, self._own + own, self._alpha + alpha
        if self._own + max(self._plain, self._alpha) > (most := self.loader.limits.regions):
            message = f"{param}: with it the request has more than {most} regions; inline markup and masks of alpha "
            raise ApiError(400, f"{message}channels are counted too", param, "too_many_regions")


def read_query(request: ChatRequest, loader: ImageLoader, place: Place) -> tuple[Query, str | None]:
    """The question, with its images checked, and its system prompt.

    Args:
        request: checked field by field.
        loader: reads images and masks.
        place: that the request holds.

    Raises:
        ApiError: 400 naming the field.
    """
    reader = _Reader(request, loader, place)
    system, turns, first = _system(reader, request.messages)
    _check_order(turns, first)
    texts, images = [], []
    for number, message in enumerate(turns, first):
        text, found = _turn(reader, message, f"messages[{number}]")
        texts.append(text)
        images.append(found)
    if (rest := next(reader._explicit, None)) is not None:
        raise wrong(rest[1], f"no {REGION_PLACEHOLDER} of the messages is left for it; write one for each region"
                    f"{hint_of_tags(texts)}")  # fmt: skip
    _place_images(texts, images)
    regions = [_region(reader, item, param) for item, param in reader.regions]
    regions += _alpha_regions(reader, texts, images, first)
    history = list(zip(texts[:-1:2], texts[1::2], strict=True))
    images_given = [one.source for one in reader.images]
    return Query(images_given, texts[-1], regions, history, request.lion_task, request.tags), system


def _system(reader: _Reader, messages: Sequence[Message]) -> tuple[str | None, Sequence[Message], int]:
    """The system prompt, the other messages, and the number of the first of these."""
    count = next((n for n, one in enumerate(messages) if one.role not in ("system", "developer")), len(messages))
    words = []
    for number, message in enumerate(messages[:count]):
        texts = [part.text for part in message.content if isinstance(part, TextPart)]
        if len(texts) < len(message.content):
            raise wrong(f"messages[{number}].content", f"a {message.role} message holds text alone")
        for part, text in enumerate(texts):
            reader.regions += _explicit_regions(reader, text, f"messages[{number}].content[{part}]")
        words.append("\n".join(texts))
    return "\n".join(words) if words else None, messages[count:], count


def _check_order(turns: Sequence[Message], first: int) -> None:
    for number, message in enumerate(turns):
        wanted = "assistant" if number % 2 else "user"
        if message.role != wanted:
            raise wrong(f"messages[{first + number}].role", f"user and assistant take turns; got {message.role!r}, "
                        f"wanted {wanted!r}")  # fmt: skip
    if len(turns) % 2 == 0:
        raise wrong("messages", "the last message is the user's question")


def _turn(reader: _Reader, message: Message, name: str) -> tuple[str, int]:
    """The text of a message, and how many images came with it."""
    text, images, behind, earlier = "", 0, "", len(reader.images)
    for number, part in enumerate(message.content):
        param = f"{name}.content[{number}]"
        if message.role == "assistant" and not isinstance(part, TextPart):
            raise wrong(param, "an answer holds text alone")
        if isinstance(part, TextPart):
            reader.regions += _explicit_regions(reader, part.text, param)
            text += ("\n" if behind == "text" else " " if behind and part.text[:1].isalnum() else "") + part.text
            behind = "text"
        elif isinstance(part, RegionPart):
            reader.count(param, own=1)
            reader.regions.append((_with_image(part, message, earlier, param), param))
            text += (" " if text and not text[-1].isspace() else "") + REGION_PLACEHOLDER
            behind = "region"
        else:
            _image(reader, *_source(part, param))
            reader.count(param, alpha=reader.images[-1].mask is not None)
            images += 1
    if not text.strip() and message.role == "user":
        raise wrong(f"{name}.content", "it has no text: ask something")
    return text, images


def _with_image(part: RegionPart, message: Message, earlier: int, param: str) -> dict[str, Any]:
    """A region's keys with the one image that its message has; one in a message without lies on the one before it.

    Args:
        part: the region.
        message: that it stands in.
        earlier: images of the messages before.
        param: its field.

    Raises:
        ApiError: 400 where it could be several.
    """
    given = {name: value for name, value in (part.model_extra or {}).items() if value is not None}
    own = sum(isinstance(one, (ImagePart, FilePart)) for one in message.content)
    first, count, place = (earlier, own, "of its message") if own else (0, earlier, "before it")
    if "image" not in given and count > 1:
        raise wrong(param, f"it may lie on each of the {count} images, {first} to {first + count - 1}, {place}; give "
                    "image, counted from 0 over the whole conversation")  # fmt: skip
    return {"image": first, **given}


def _image(reader: _Reader, source: str | FileId, param: str) -> None:
    most = reader.loader.limits.images
    if len(reader.images) >= most:
        raise ApiError(400, f"{param}: a request may have {most} images", param, "too_many_images")
    reader.images.append(reader.loader.load(source, reader.place, param))


def _source(part: ImagePart | FilePart, param: str) -> tuple[str | FileId, str]:
    """What is loaded for a part, and its field."""
    if isinstance(part, ImagePart):
        return part.image_url.url, f"{param}.image_url.url"
    file_id, data, param = part.file.file_id, part.file.file_data, f"{param}.file"
    if (file_id is None) == (data is None):
        raise wrong(param, "give file_id, of a file that was uploaded before, or file_data, a data: URL of an image")
    if file_id is not None:
        if part.file.filename is not None:
            raise wrong(f"{param}.filename", "the file has the name of its upload; leave it out")
        return FileId(file_id), f"{param}.file_id"
    assert data is not None
    if data[:5].lower() != "data:":
        raise wrong(f"{param}.file_data", f"{data[:60]!r} is no data: URL of an image, data:image/png;base64,...")
    return data, f"{param}.file_data"


def _explicit_regions(reader: _Reader, text: str, param: str) -> Iterator[tuple[Any, str]]:
    """One of the body's regions for each ``<region>`` written in a text; inline markup brings its own."""
    try:
        found = list(islice(find_placeholders(text, param), reader.loader.limits.regions + 1))
    except RegionError as error:
        raise ApiError(400, str(error), param) from error
    plain = found.count(None)
    reader.count(param, plain, len(found) - plain)
    for _ in range(plain):
        given = next(reader._explicit, None)
        if given is not None:
            yield given


def _place_images(texts: list[str], images: Sequence[int]) -> None:
    """Write ``<image>`` where images belong to later turns; those of the first come first without."""
    if not any(images[1:]):
        return
    for number, count in enumerate(images):
        if count and IMAGE_PLACEHOLDER not in texts[number]:
            texts[number] = (IMAGE_PLACEHOLDER + "\n") * count + texts[number]


def _region(reader: _Reader, item: Any, param: str) -> Region:
    """A region in the schema of our data files; a mask may also be a ``data:`` URL or an upload."""
    limits, file = reader.loader.limits, None
    if isinstance(item, dict) and (file := _mask_file(item.get("mask"))) is not None:
        item = {**item, "mask": "mask.png"}
    if _numbers(item, 2 * limits.points + 1) > 2 * limits.points:
        raise ApiError(400, f"{param}: a region may have {limits.points} points", param, "too_many_points")
    try:
        found = parse_region(item, param, None)
    except ValueError as error:
        raise ApiError(400, str(error), param) from error
    if not 0 <= found.image < len(reader.images):
        raise wrong(param, f"it lies on image {found.image}; the request has {len(reader.images)}, counted from 0")
    size = reader.images[found.image].size
    try:
        if isinstance(found, PendingMask):
            found = _mask(reader, found, file, param)
        return found.resolve(size, param)
    except RegionError as error:
        raise ApiError(400, in_json(error, found.kind if isinstance(found, Region) else "mask"), param) from error


def _mask_file(value: Any) -> str | FileId | None:
    """The source of a mask that is a file; None for run lengths."""
    if isinstance(value, dict) and set(value) == {"file_id"} and isinstance(value["file_id"], str):
        return FileId(value["file_id"])
    return value if isinstance(value, str) else None


def _mask(reader: _Reader, found: PendingMask, file: str | FileId | None, param: str) -> Region:
    """A mask from its file or its run lengths, which say their size before they are decoded."""
    width, height = reader.images[found.image].size
    if file is not None:
        return Region.mask(reader.loader.mask(file, reader.place, param), image=found.image)
    if isinstance(found.source, str) or (found.source.width, found.source.height) != (width, height):
        raise wrong(param, f"its run lengths are of another size than its image, {width}x{height}")
    reader.place.take(width * height, param)
    return found.load(None, param)


def _numbers(item: Any, most: int) -> int:
    """How many numbers a region's points have, counted no further than ``most``; run lengths are not points."""
    open_items, count = [item], 0
    while open_items and count < most:
        one = open_items.pop()
        if isinstance(one, list):
            count += sum(isinstance(value, (int, float)) for value in one)
            open_items += [value for value in one if isinstance(value, (list, dict))]
        elif isinstance(one, dict):
            open_items += [value for key, value in one.items() if key != "mask"]
    return count


def _alpha_regions(reader: _Reader, texts: list[str], images: Sequence[int], number: int) -> list[Region]:
    """The masks in alpha channels, each for a ``<region>`` of its image's own turn, where missing ones are written.

    Args:
        reader: that has read all messages.
        texts: of the turns; changed.
        images: of each turn, how many.
        number: of the first turn's message.

    Raises:
        ApiError: 400 for a ``<region>`` that no mask of its turn fills.
    """
    masks = [(image, one.mask) for image, one in enumerate(reader.images) if one.mask is not None]
    if not masks:
        return []
    if reader.regions:
        raise wrong(reader.regions[0][1], f"image {masks[0][0]} has an alpha channel, which is the mask of a region; "
                    "give regions, or images with alpha channels, not both")  # fmt: skip
    first = 0
    for turn, count in enumerate(images):
        own = sum(first <= image < first + count for image, _ in masks)
        first += count
        written = sum(region is None for region in find_placeholders(texts[turn], "messages"))
        if written > own:
            shown = f"{own} image{'s' * (own != 1)} with a mask in its alpha channel"
            raise wrong(f"messages[{number + turn}].content", f"it has {written} {REGION_PLACEHOLDER} and {shown}; a "
                        "mask is that of a region of its image's own message")  # fmt: skip
        for _ in range(own - written):
            texts[turn] = _with_placeholder(texts[turn])
    return [Region.mask(mask, image=image) for image, mask in masks]


def _with_placeholder(text: str) -> str:
    """One ``<region>`` more: for "the masked region", else behind the text."""
    if MASKED_REGION in text:
        return text.replace(MASKED_REGION, REGION_PLACEHOLDER, 1)
    return f"{text} {REGION_PLACEHOLDER}"
