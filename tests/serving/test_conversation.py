"""Regions of several turns: each lies on the image, and stands in the turn, that its client meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.chat_request import read_request
from pvit_ext.serving.conversation import read_query
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.limits import Limits, Places
from pvit_ext.tokens.query import Query
from tests.hosts.tiny_hosts import TALL
from tests.serving.served import BOX, image_part, masked, message

SAID = message("a dog", role="assistant")
REGION = {"type": "region", "box": BOX}
SHOWN, OTHER = image_part(), image_part(TALL)
MASKED = image_part(masked())


def read(*messages: dict[str, Any]) -> Query:
    body = json.dumps({"model": "tiny", "messages": messages}).encode()
    return read_query(read_request(body), ImageLoader(Limits()), Places(Limits()).enter(1))[0]


# Masks of alpha channels


@pytest.mark.parametrize(
    ("messages", "named", "why"),
    [
        (
            [message(MASKED, "what is the masked region ?"), SAID, message(MASKED, "<region> or <region> ?")],
            "messages[2].content",
            "2 <region> and 1 image with a mask in its alpha channel",
        ),
        (
            [message(MASKED, "what ?"), SAID, message("and <region> ?")],
            "messages[2].content",
            "1 <region> and 0 images",
        ),
        (
            [
                message("be brief", role="system"),
                message(MASKED, "<region> and <region> ?"),
                SAID,
                message(MASKED, "?"),
            ],
            "messages[1].content",
            "2 <region> and 1 image",
        ),
        (
            [message(MASKED, "what ?"), message("it is <region>", role="assistant"), message("and ?")],
            "messages[1].content",
            "1 <region> and 0 images",
        ),
    ],
)
def test_a_mask_fills_no_region_of_another_turn(messages: list[Any], named: str, why: str) -> None:
    with pytest.raises(ApiError) as error:
        read(*messages)
    assert error.value.param == named
    assert why in str(error.value)


def test_masks_are_those_of_their_turns() -> None:
    query = read(message(MASKED, "what is <region> ?"), SAID, message(MASKED, MASKED, "is <region> larger ?"))
    assert query.history == [("<image>\nwhat is <region> ?", "a dog")]
    assert query.text == "<image>\n<image>\nis <region> larger ? <region>"
    assert [one.image for one in query.regions] == [0, 1, 2]


# Regions among the parts


@pytest.mark.parametrize(
    ("messages", "image"),
    [
        ([message(SHOWN, "what is", REGION)], 0),
        ([message(SHOWN, "what ?"), SAID, message(OTHER, "what is", REGION)], 1),
        ([message(SHOWN, "what ?"), SAID, message(REGION, "in this one", OTHER)], 1),
        ([message(SHOWN, "what ?"), SAID, message("what is", REGION)], 0),
        ([message(SHOWN, "what ?"), SAID, message(OTHER, "what is", REGION | {"image": 0})], 0),
        ([message(SHOWN, OTHER, "what is", REGION | {"image": 1})], 1),
        ([message(SHOWN, "what ?"), SAID, message(OTHER, "what is", REGION | {"image": None})], 1),
    ],
)
def test_a_region_part_lies_on_the_image_of_its_message(messages: list[Any], image: int) -> None:
    assert [one.image for one in read(*messages).regions] == [image]


@pytest.mark.parametrize(
    ("messages", "named", "why"),
    [
        ([message(SHOWN, OTHER, "what is", REGION)], "messages[0].content[3]", "2 images, 0 to 1, of its message"),
        (
            [message(SHOWN, "what ?"), SAID, message(OTHER, SHOWN, "what is", REGION)],
            "messages[2].content[3]",
            "2 images, 1 to 2, of its message",
        ),
        (
            [message(SHOWN, "what ?"), SAID, message(OTHER, "what ?"), SAID, message("what is", REGION)],
            "messages[4].content[1]",
            "2 images, 0 to 1, before it",
        ),
    ],
)
def test_a_region_part_says_its_image_where_there_are_several(messages: list[Any], named: str, why: str) -> None:
    with pytest.raises(ApiError, match="give image") as error:
        read(*messages)
    assert error.value.param == named
    assert why in str(error.value)
