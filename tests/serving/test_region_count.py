"""However a request brings its regions, they are counted before they are read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.chat_request import read_request
from pvit_ext.serving.conversation import read_query
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.limits import Limits, Places
from pvit_ext.tokens.query import Query
from tests.serving.served import BOX, image_part, message

LIMITS = Limits(regions=2)
INLINE = "<Region>[0.0, 0.0, 0.5, 0.5]</Region> "
PART = {"type": "region", "box": BOX}


def masked(red: int) -> dict[str, Any]:
    """An image whose alpha channel is a mask."""
    image = Image.new("RGBA", (64, 64), (red, 9, 9, 0))
    image.paste((red, 9, 9, 255), (2, 2, 30, 30))
    return image_part(image)


def read(messages: list[dict[str, Any]], regions: int = 0) -> Query:
    body = {"model": "tiny", "messages": messages, "regions": [BOX] * regions}
    return read_query(read_request(json.dumps(body).encode()), ImageLoader(LIMITS), Places(LIMITS).enter(1))[0]


@pytest.mark.parametrize(
    ("messages", "regions", "param"),
    [
        ([message(image_part(), "what " + INLINE * 20)], 0, "messages[0].content[1]"),
        ([message(image_part(), INLINE, "and <region>", INLINE)], 1, "messages[0].content[3]"),
        ([message(image_part(), "what", PART, PART, PART)], 0, "messages[0].content[4]"),
        ([message(image_part(), "<region> " * 3)], 3, "messages[0].content[1]"),
        ([message(*[masked(red) for red in range(6)], "what ?")], 0, "messages[0].content[2]"),
        ([message(masked(1), masked(2), "what", INLINE)], 0, "messages[0].content[3]"),
        (
            [message("be brief", INLINE * 3, role="system"), message(image_part(), "what ?")],
            0,
            "messages[0].content[1]",
        ),
        ([message(INLINE, role="system"), message(image_part(), "<region> " * 2)], 2, "messages[1].content[1]"),
        (
            [message(image_part(), INLINE), message(INLINE, role="assistant"), message("and " + INLINE)],
            0,
            "messages[2].content[0]",
        ),
    ],
)
def test_too_many_regions(messages: list[dict[str, Any]], regions: int, param: str) -> None:
    with pytest.raises(ApiError, match="more than 2 regions") as error:
        read(messages, regions)
    assert (error.value.status, error.value.param, error.value.code) == (400, param, "too_many_regions")


def test_as_many_as_may_be() -> None:
    assert len(read([message(image_part(), INLINE, "<region>")], 1).regions) == 1
    assert len(read([message(image_part(), "what", PART, PART)]).regions) == 2
    assert len(read([message("about <region>", role="system"), message(image_part(), "what ?")], 1).regions) == 1
    filled = [message(masked(1), masked(2), "compare <region> and <region>")]
    assert len(read(filled).regions) == 2
