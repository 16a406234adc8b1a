"""``python -m examples.lion``: equal budgets, tags as good as their name says, scores, claims, and a small real run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from examples.lion import report
from examples.lion.arms import ARMS, CLAIMS, MIXED
from examples.lion.settings import Settings
from examples.lion.stages import deal
from examples.lion.tags import PRECISION, QUALITIES, RECALL, tags_of
from examples.lion.tasks import IMAGE, REGION, Asked, questions, record_of, score
from examples.lion.training import Conversations
from examples.quickstart.towers import Scenes
from examples.quickstart.world import DIGITS, make_scenes


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return make_scenes("train", 60, 3)


def test_tags_are_as_good_as_their_name_says(scenes: Scenes) -> None:
    rng = random.Random(0)
    true = [{DIGITS[one.value] for one in scene.digits} | {one.colour for one in scene.digits} for scene, _ in scenes]
    shown = {name: [tags_of(scene, name, rng) for scene, _ in scenes] for name in QUALITIES}
    assert [set(one) for one in shown["true"]] == true
    assert not any(shown["none"])
    assert not any(set(one) & own for one, own in zip(shown["wrong"], true, strict=True))
    right = sum(len(set(one) & own) for one, own in zip(shown["real"], true, strict=True))
    assert right / sum(map(len, shown["real"])) == pytest.approx(PRECISION, abs=0.08)
    assert right / sum(map(len, true)) == pytest.approx(RECALL, abs=0.08)


def test_an_answer_scores_by_the_words_that_are_there() -> None:
    image, region = Asked(IMAGE, "?", "red, blue"), Asked(REGION, "?", "seven", (0, 0, 9, 9))
    assert [score(image, text) for text in ("blue, red.", "red, red", "pink", "")] == [1.0, pytest.approx(2 / 3), 0, 0]
    assert [score(region, text) for text in ("Seven", "seven, six", "")] == [1, 0, 0]


def test_a_record_has_the_questions_of_one_task(scenes: Scenes) -> None:
    image, region = (questions(scenes[0][0], task, random.Random(0)) for task in (IMAGE, REGION))
    record = record_of("a.png", image)
    assert [turn["value"] for turn in record["conversations"][1::2]] == [one.answer for one in image]
    assert "regions" not in record
    assert record_of("a.png", region)["regions"] == [list(one.box) for one in region if one.box]


def test_every_arm_sees_the_same_conversations_as_often(scenes: Scenes) -> None:
    settings = Settings(batch=4, arm_steps=12)
    drawn = Conversations(scenes, settings, 0)

    def seen(name: str) -> list[tuple[str, str]]:
        parts = deal(drawn.arm(ARMS[name]), ARMS[name], 0)
        return sorted((one["id"], one["conversations"][1]["value"]) for _, records in parts for one in records)

    every = [name for name, arm in ARMS.items() if arm.trains]
    assert len(seen(every[0])) == settings.batch * settings.arm_steps
    assert all(seen(name) == seen(every[0]) for name in every)


def test_stages_are_as_long_as_they_say(scenes: Scenes) -> None:
    drawn = Conversations(scenes, Settings(batch=4, arm_steps=12), 0)
    arm = ARMS["routed_stages"]
    dealt = deal(drawn.arm(arm), arm, 0)
    assert [(stage.flag, len(records)) for stage, records in dealt] == [
        ("lion_image", 16), ("lion_region", 16), ("lion_mixed", 16)
    ]  # fmt: skip
    tasks = [{"region" if "regions" in one else "image" for one in records} for _, records in dealt]
    assert tasks == [{IMAGE}, {REGION}, {IMAGE, REGION}]
    assert ARMS["shared_mixed"].stages[0].data == MIXED


def results(better: list[float], worse: list[float]) -> dict[str, Any]:
    def of(values: list[float]) -> dict[int, Any]:
        scores = {"none": 0.0}
        return {n: {"scores": {q: {IMAGE: v, REGION: v} for q in scores}, "seconds": {}} for n, v in enumerate(values)}

    return {"routed_mixed": of(better), "shared_mixed": of(worse)}


@pytest.mark.parametrize(
    ("better", "shows"), [([0.5, 0.6, 0.55], True), ([0.5, 0.6, 0.39], False), ([0.41, 0.9, 0.41], False)]
)
def test_a_claim_shows_where_all_seeds_agree_beyond_their_spread(better: list[float], shows: bool) -> None:
    found = results(better, [0.4, 0.4, 0.4])
    assert report.holds(report.differences(found, CLAIMS[0], IMAGE), CLAIMS[0]) is shows
    assert ("yes" if shows else "no") in report.claims_table(found)
    assert "| two routed adapters, mixed training | none | 3 |" in report.scores_table(found)


@pytest.mark.parametrize(
    ("better", "shows"), [([0.4, 0.401, 0.402], True), ([0.43, 0.38, 0.39], False), ([0.42, 0.42, 0.42], False)]
)
def test_no_difference_shows_where_seeds_agree_on_none(better: list[float], shows: bool) -> None:
    (claim,) = (one for one in CLAIMS if one.no_difference)
    assert report.holds([one - 0.4 for one in better], claim) is shows


@pytest.mark.slow
def test_a_small_run_leaves_its_reports_and_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples.lion.__main__ import main

    words = ["--output", str(tmp_path / "lion"), "--scale", "0.02", "--seeds", "0"]
    main([*words, "--arms", "start", "shared_stages", "aggregator", "hinted_tags"])
    for name in ("metrics.json", "table.md", "lion.png"):
        assert (tmp_path / "lion" / name).stat().st_size
    assert "aggregator" in (tmp_path / "lion" / "table.md").read_text()
    capsys.readouterr()
    main([*words, "--arms", "start", "aggregator"])
    assert "[seed 0: aggregator] kept" in capsys.readouterr().out
