"""An external model as the baseline, behind a scripted endpoint on this machine."""

from __future__ import annotations

import base64
import io
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext.cli.eval import _endpoint
from tests.data.generate.llm_server import LlmServer, Reply

pytest.importorskip("openai")
DIFFERENT = 6
"""Of the 9 questions; equal ones are one call."""


def parts(body: dict[str, Any]) -> tuple[Image.Image, str]:
    image, text = body["messages"][-1]["content"]
    raw = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    return Image.open(io.BytesIO(raw)), text["text"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvit_ext.data.generate.client.FIRST_WAIT", 0.01)


def test_regions_are_drawn_and_no_call_is_made_twice(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    with LlmServer(lambda body, again: Reply("A red cat.")) as server:
        options = ("--endpoint", server.url, "--endpoint-model", "m")
        values = evaluate(*options)
        assert len(server.bodies) == DIFFERENT
        assert evaluate(*options) == values
        assert len(server.bodies) == DIFFERENT
        evaluate(*options, "--arm", "text", out="text")
        texts = {parts(body)[1] for body in server.bodies[DIFFERENT:]}
    assert values["metrics"]["accuracy"] == pytest.approx(3 / 9)
    assert values["groups"]["size of region"]["small"]["samples"] == 5
    assert values["run"]["model"].startswith("m at http")
    assert values["run"]["system prompt"] == "none"
    assert "What is in [0.050,0.100,0.333,0.750]?" in texts
    image, text = next(
        found for body in server.bodies if (found := parts(body))[0].size == (60, 40) and "rectangle" in found[1]
    )
    assert text == "What is in the object within the red rectangle?"
    stock = np.asarray(Image.open(own_set / "0.png").convert("RGB"))
    changed = (np.asarray(image) != stock).any(2)
    assert changed[4, 3:20].all()
    assert not changed[8:25, 8:15].any()
    body = server.bodies[0]
    assert (body["temperature"], body["max_tokens"], "response_format" in body) == (0.0, 32, False)


def test_a_seed_chooses_samples_and_changes_no_call() -> None:
    given = dict.fromkeys(("image_side", "concurrency", "api_key_name", "system"))
    args = Namespace(**given, endpoint="http://localhost:1/v1", endpoint_model="m", seed=5)
    assert _endpoint(args, 32).call.seed == 0


def test_failures_are_asked_again_and_refusals_are_counted(evaluate: Any) -> None:
    def reply(body: dict[str, Any], again: int) -> Reply:
        if parts(body)[0].size == (30, 50):
            return Reply(None, fields={"refusal": "no"})
        if parts(body)[0].size == (200, 180):
            return Reply("two digits and", fields={"finish_reason": "length"})
        return Reply(status=500) if not again else Reply("a red cat")

    with LlmServer(reply) as server:
        values = evaluate("--endpoint", server.url, "--endpoint-model", "m", "--set", "match=words")
    assert values["run"]["refused, counted as an empty answer"] == 1
    assert values["metrics"]["no class"] == pytest.approx(1 / 9)


def test_a_run_whose_calls_fail_goes_on(evaluate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    down = [True]

    def reply(body: dict[str, Any], again: int) -> Reply:
        return Reply(status=404) if down[0] and parts(body)[0].size == (200, 180) else Reply("dog")

    with LlmServer(reply) as server:
        options = ("--endpoint", server.url, "--endpoint-model", "m", "--concurrency", 1)
        with pytest.raises(ValueError, match=r"questions have no reply .*run the same command again"):
            evaluate(*options)
        down[0] = False
        values = evaluate(*options)
        assert len(server.answered) == DIFFERENT
    assert values["metrics"]["accuracy"] == pytest.approx(4 / 9)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_region_tokens_cannot_be_sent(evaluate: Any) -> None:
    with pytest.raises(ValueError, match="takes no region tokens"):
        evaluate("--endpoint", "http://localhost:1/v1", "--endpoint-model", "m", "--arm", "regions")


def test_what_an_external_model_is_not_told_is_said(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    first, *others = map(json.loads, (own_set / "data.jsonl").read_text().splitlines())
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in [{**first, "tags": ["cat"], "lion_task": "x"}, *others]))
    with LlmServer(lambda body, again: Reply("dog")) as server:
        options = ("--endpoint", server.url, "--endpoint-model", "m")
        run = evaluate(*options, data=data)["run"]
        assert "not sent" not in evaluate(*options, out="plain")["run"]
    assert run["not sent"] == "tags of 2 samples, lion_task of 2 samples: only our models read them"
    assert "cat" not in json.dumps([body["messages"][-1]["content"][1] for body in server.bodies])


def told(body: dict[str, Any]) -> list[Any]:
    """What the user's messages hold: texts, and None for each image."""
    contents = [message["content"] for message in body["messages"][::2]]
    return [one if isinstance(one, str) else [part.get("text") for part in one] for one in contents]


def test_images_stand_where_the_question_has_them(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    def record(image: Any, *turns: str) -> dict[str, Any]:
        says = [{"from": who, "value": text} for turn in turns for who, text in (("human", turn), ("gpt", "dog"))]
        return {"image": image, "conversations": says}

    two = ["0.png", "1.png"]
    records = [
        record(two, "Is <image> brighter than <image>?"),
        record(two, "<image>\nWhat is here?", "And in <image>?"),
        record(two, "<image>\n<image>\nWhich?", "Why?"),
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in records))
    with LlmServer(lambda body, again: Reply("dog")) as server:
        options = ("--endpoint", server.url, "--endpoint-model", "m", "--concurrency", 1)
        evaluate(*options, "--set", "history=yes", data=data)
    assert [told(body) for body in server.bodies] == [
        [["Is", None, "brighter than", None, "?"]],
        [[None, None, "What is here?"]],  # the second image is asked about later
        [[None, "What is here?"], ["And in", None, "?"]],
        [[None, None, "Which?"]],
        [[None, None, "Which?"], "Why?"],
    ]


def test_history_is_a_conversation(evaluate: Any) -> None:
    with LlmServer(lambda body, again: Reply("dog")) as server:
        evaluate("--endpoint", server.url, "--endpoint-model", "m", "--set", "history=yes", "--system", "Be brief.")
    longest = max((body["messages"] for body in server.bodies), key=len)
    assert [message["role"] for message in longest] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert json.dumps(longest).count("image_url") == 2  # a type and a key: one image
