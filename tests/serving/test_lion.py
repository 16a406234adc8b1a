"""A question's task and tags, for models that know them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.api_error import ApiError
from pvit_ext.serving.chat_request import read_request
from pvit_ext.serving.lion_fields import check_lion_fields
from tests.hosts.tiny_hosts import OSPREY, WIDE, make
from tests.serving.served import BOX, FINE, QUESTION, serving

LION = replace(OSPREY, lion_adapters=4, lion_tags="plain")


@pytest.mark.parametrize(
    ("fields", "config", "why"),
    [
        ({"lion_task": "region"}, OSPREY, "no adapters by task"),
        ({"lion_task": "region"}, None, "no adapters by task"),
        ({"lion_task": "sing"}, LION, "the tasks region, image, got 'sing'"),
        ({"tags": ["dog"]}, OSPREY, "reads no tags"),
        ({"tags": ["dog"]}, None, "reads no tags"),
        ({"tags": ["dog", "<image>"]}, LION, "stands for no text"),
        ({"tags": ["!"]}, LION, "has no letter"),
    ],
)
def test_what_the_model_does_not_know_is_named(fields: dict[str, Any], config: RegionConfig | None, why: str) -> None:
    request = read_request(json.dumps(FINE | fields).encode())
    with pytest.raises(ApiError, match=why) as error:
        check_lion_fields(request, config)
    assert (error.value.status, error.value.param) == (400, *fields)


@pytest.mark.slow
def test_a_task_and_tags_are_those_of_ask(tmp_path_factory: pytest.TempPathFactory) -> None:
    model, tokenizer, processor = make("llava/llama", tmp_path_factory).talking(LION)
    loaded = Loaded(tokenizer, model, processor, 2048)
    with serving(loaded) as served:
        for fields in {"lion_task": "image"}, {"lion_task": "region", "tags": ["dog", "car"]}, {"tags": []}:
            status, found, _ = served.ask(FINE | fields)
            assert status == 200, found
            query = Query(WIDE, QUESTION, [Region.box(*BOX)], task=fields.get("lion_task"), tags=fields.get("tags"))
            (text,) = pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=5)
            assert found["choices"][0]["message"]["content"] == text
