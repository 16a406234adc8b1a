"""OpenAI's own client against the server: an answer is that of ``ask``, whole and streamed, regions in every form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.chat_request import read_request
from pvit_ext.serving.conversation import read_query
from pvit_ext.serving.image_loader import ImageLoader
from pvit_ext.serving.limits import Limits, Places
from tests.hosts.tiny_hosts import TALL, WIDE
from tests.serving.served import BOX, FINE, QUESTION, Served, data_url, image_part, mask_of, masked, message, serving

REGION = Region.box(*BOX)


@pytest.fixture(scope="module")
def served(loaded: Loaded) -> Iterator[Served]:
    with serving(loaded) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Any:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="any", max_retries=0) as found:
        yield found


def said(client: Any, messages: list[dict[str, Any]], regions: list[Any] | None = None, **options: Any) -> str:
    extra = {} if regions is None else {"regions": regions}
    made = client.chat.completions.create(
        model="tiny", messages=messages, extra_body=extra, **{"max_tokens": 5, **options}
    )
    text: str = made.choices[0].message.content
    return text


def expected(loaded: Loaded, *query: Any, system: str | None = None, **given: Any) -> str:
    parts = (loaded.model, loaded.tokenizer, loaded.processor)
    (text,) = pvit_ext.ask(*parts, [Query(*query, **given)], max_new_tokens=5, system=system)
    return str(text)


def test_an_answer_whole_and_streamed(client: Any, loaded: Loaded, served: Served) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "pvit-ext"
    answer = expected(loaded, WIDE, QUESTION, [REGION])
    made = client.chat.completions.create(
        model="tiny", messages=FINE["messages"], max_tokens=5, extra_body={"regions": [BOX]}
    )
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == (answer, "length")
    usage = made.usage
    assert usage.completion_tokens == 5
    assert usage.total_tokens == usage.prompt_tokens + 5
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=FINE["messages"], max_tokens=5, extra_body={"regions": [BOX]}, **options
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == answer
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], usage)
    assert len({chunk.id for chunk in chunks}) == 1
    assert served.idle()


def test_a_stream_without_usage_ends_as_openais(served: Served) -> None:
    connection = served.connection()
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(FINE | {"stream": True}), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all("usage" not in event for event in events)
    connection.close()


def test_regions_of_every_kind(client: Any, loaded: Loaded) -> None:
    width, height = WIDE.size
    mask = mask_of(WIDE)
    runs = [600 + 20, *[30, 30] * 29, 30, 10 + 60 * (width - 40)]  # down the columns, from background on
    lengths = {"size": [height, width], "counts": runs}
    polygon = [[10, 20], [40, 20], [40, 50]]
    for given, region in [
        ({"box": [0.1, 0.2, 0.5, 0.8], "normalized": True}, Region.box(0.1, 0.2, 0.5, 0.8, normalized=True)),
        ({"point": [30, 30]}, Region.point(30, 30)),
        ({"polygon": polygon}, Region.polygon(polygon)),
        ({"scribble": polygon}, Region.scribble(polygon)),
        ({"mask": lengths}, Region.mask(mask)),
        ({"mask": data_url(Image.fromarray(mask))}, Region.mask(mask)),
    ]:
        assert said(client, FINE["messages"], [given]) == expected(loaded, WIDE, QUESTION, [region]), given


def test_regions_where_they_stand_in_the_content(client: Any, loaded: Loaded) -> None:
    here = {"type": "region", "box": BOX, "image": 0}
    there = {"type": "region", "box": [3, 40, 20, 70], "image": 1}
    other = Region.box(3, 40, 20, 70, image=1)
    text = "which is larger <region> and <region> or <region> ?"
    answer = expected(loaded, [WIDE, TALL], text, [REGION, other, Region.point(30, 30)])
    parts = [image_part(), image_part(TALL), "which is larger", here, "and", there, "or <region> ?"]
    assert said(client, [message(*parts)], [{"point": [30, 30]}]) == answer


def test_turns_images_of_later_ones_and_a_system_prompt(client: Any, loaded: Loaded) -> None:
    first = [message(image_part(), QUESTION), {"role": "assistant", "content": "a dog", "refusal": None}]
    history = [(QUESTION, "a dog")]
    answer = expected(loaded, WIDE, "and <region> ?", [REGION, Region.point(30, 30)], history=history)
    assert said(client, [*first, message("and <region> ?")], [BOX, {"point": [30, 30]}]) == answer
    later = [("<image>\n" + QUESTION, "a dog")]
    answer = expected(loaded, [WIDE, TALL], "<image>\nand this ?", [REGION], history=later)
    assert said(client, [*first, message(image_part(TALL), "and this ?")], [BOX]) == answer
    answer = expected(loaded, WIDE, QUESTION, [REGION], system="Describe the image.")
    system = {"role": "system", "content": "Describe the image."}
    assert said(client, [system, message(image_part(), QUESTION)], [BOX]) == answer


def test_an_alpha_channel_is_a_mask(client: Any, loaded: Loaded) -> None:
    mask, shown = mask_of(WIDE), masked()
    answer = expected(loaded, WIDE, "Describe <region> in detail.", [Region.mask(mask)])
    for text in ("Describe <region> in detail.", "Describe the masked region in detail."):
        assert said(client, [message(image_part(shown), text)]) == answer
    behind = expected(loaded, WIDE, "what is this ? <region>", [Region.mask(mask)])
    assert said(client, [message(image_part(shown), "what is this ?")]) == behind
    shown.putalpha(255)  # as many programs write
    assert said(client, [message(image_part(shown), QUESTION)], [BOX]) == expected(loaded, WIDE, QUESTION, [REGION])


def test_alpha_channels_stay_in_their_turns() -> None:
    """A client sends the conversation again with each further question."""
    shown = image_part(masked())
    turns = [
        message(shown, "Describe the masked region."), {"role": "assistant", "content": "A dog."},
        message(shown, "And this?"), {"role": "assistant", "content": "A cat."},
        message("Which is larger?"),
    ]  # fmt: skip
    limits = Limits()
    request = read_request(json.dumps({"model": "tiny", "messages": turns}).encode())
    query, _ = read_query(request, ImageLoader(limits), Places(limits).enter(1))
    assert query.history == [("<image>\nDescribe <region>.", "A dog."), ("<image>\nAnd this? <region>", "A cat.")]
    assert (query.text, [one.image for one in query.regions]) == ("Which is larger?", [0, 1])


def test_stop_and_seed(client: Any) -> None:
    whole = said(client, FINE["messages"], [BOX], max_tokens=12)
    stop = whole[len(whole) // 2 :][:3]
    cut = whole[: whole.find(stop)].rstrip()
    assert said(client, FINE["messages"], [BOX], max_tokens=12, stop=stop) == cut
    assert said(client, FINE["messages"], [BOX], max_tokens=12, stop=["never", stop]) == cut
    hot: dict[str, Any] = {"temperature": 1.8, "max_tokens": 8}
    drawn = [said(client, FINE["messages"], [BOX], seed=seed, **hot) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def choices(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(
        model="tiny", messages=FINE["messages"], max_tokens=6, extra_body={"regions": [BOX]}, **options
    )


def test_several_choices(client: Any, served: Served) -> None:
    hot: dict[str, Any] = {"temperature": 1.8, "seed": 7}
    alone = [choices(client, **hot | {"seed": seed}) for seed in (7, 8, 9)]
    texts = [one.choices[0].message.content for one in alone]
    assert len(set(texts)) == 3
    made = choices(client, n=3, **hot)
    assert [one.message.content for one in made.choices] == texts
    assert [one.index for one in made.choices] == [0, 1, 2]
    assert made.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert made.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)
    chunks = list(choices(client, n=3, stream=True, stream_options={"include_usage": True}, **hot))
    said, ends = [""] * 3, [""] * 3
    for chunk in chunks[:-1]:
        (one,) = chunk.choices
        said[one.index] += one.delta.content or ""
        ends[one.index] += one.finish_reason or ""
    assert (said, ends) == (texts, [one.choices[0].finish_reason for one in alone])
    assert [chunk.choices[0].delta.role for chunk in chunks[:3]] == ["assistant"] * 3
    assert (chunks[-1].choices, chunks[-1].usage) == ([], made.usage)
    assert served.idle()


def test_choices_without_temperature_are_the_likeliest_answer(client: Any) -> None:
    alone = choices(client)
    made = choices(client, n=2)
    assert [one.message.content for one in made.choices] == [alone.choices[0].message.content] * 2
    assert made.usage.completion_tokens == 2 * alone.usage.completion_tokens
    said = ["", ""]
    for chunk in choices(client, n=2, stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert said == [alone.choices[0].message.content] * 2


def test_choices_without_a_seed_differ(client: Any) -> None:
    made = choices(client, n=4, temperature=1.8)
    assert len({one.message.content for one in made.choices}) > 1


def test_errors_reach_the_client(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"regions.0.: .* lies outside its image") as error:
        said(client, FINE["messages"], [[200, 200, 300, 300]])
    assert error.value.param == "regions[0]"
    with pytest.raises(openai.NotFoundError, match="'tiny' is"):
        client.chat.completions.create(model="gpt-5", messages=FINE["messages"])
