"""Judged benchmarks from stored replies, by each protocol's own rules; published numbers from what is stored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.generate.llm_server import LlmServer, Reply
from tests.evaluation.judged import (
    dlc_bench,
    ferret_bench,
    gar_captions,
    images_of,
    mdvp_bench,
    run,
    texts_of,
    write_json,
    write_lines,
)

DATA = os.environ.get("PVIT_EXT_DATA")
SCRIPT = ("--set", "unreadable=script")
real = pytest.mark.skipif(DATA is None, reason="PVIT_EXT_DATA names no folder of real data")


def stored(folder: Path, answers: str, replies: str, data: Path | None = None) -> tuple[object, ...]:
    start = ("--data", data or folder, "--image-folder", folder, "--answers", folder / answers)
    return (*start, "--judge-replies", folder / replies, "--judge-model", "stored")


def test_dlc_bench_gates_and_takes_means_of_objects(tmp_path: Path) -> None:
    folder = dlc_bench(tmp_path)
    values = run("dlc-bench", tmp_path / "out", *stored(folder, "captions.json", "stored.json"))
    assert values["metrics"] == pytest.approx({"average": 0.25, "positive": 0.5, "negative": 0.0, "recognised": 0.5})
    values = run("dlc-bench", tmp_path / "out", *stored(folder, "captions.json", "stored.json"), *SCRIPT)
    assert values["metrics"] == pytest.approx({"average": 0.125, "positive": 0.25, "negative": 0.0, "recognised": 0.5})
    assert values["judge"]["without a readable reply"] == 1
    assert "scored as the benchmark's script does" in (tmp_path / "out" / "metrics.md").read_text()
    assert values["groups"]["size of region"]["small"]["samples"] == 2


def test_dlc_bench_reads_the_judges_prompt_from_judged_outputs(tmp_path: Path) -> None:
    folder = dlc_bench(tmp_path)
    options = ("--data", folder, "--image-folder", folder, "--answers", folder / "captions.json")
    with LlmServer(lambda body, again: Reply("A")) as server:
        judge = ("--judge-model", "m", "--judge-endpoint", server.url)
        prompt = ("--set", f"judge_prompt={folder / 'stored.json'}")
        values = run("dlc-bench", tmp_path / "out", *options, *judge, *prompt)
    told = sorted(map(texts_of, server.bodies))
    assert "RULES\nA white vase.\nQ:\nIs it 502?\nA. Yes\nB. No\n" in told
    assert values["judge"]["prompt"].startswith("stored.json, SHA-256 ")


def test_replies_about_other_answers_are_refused(tmp_path: Path) -> None:
    folder = dlc_bench(tmp_path)
    write_json(folder / "other.json", {"501": "A cat.", "502": "A white vase."})
    with pytest.raises(ValueError, match=r"judges another answer to annotations.json 501, 'A dog with brown fur"):
        run("dlc-bench", tmp_path / "out", *stored(folder, "other.json", "stored.json"))


def test_gar_captions_are_true_by_that_one_word(tmp_path: Path) -> None:
    data = gar_captions(tmp_path)
    options = stored(tmp_path, "answered.json", "stored.json", data)
    assert run("gar-bench-captions", tmp_path / "out", *options, *SCRIPT)["metrics"] == pytest.approx(
        {"accuracy": 1 / 3}
    )
    values = run("gar-bench-captions", tmp_path / "out", *options)
    assert values["metrics"] == {"accuracy": 1 / 2}
    assert values["judge"]["samples without a verdict"] == 1
    items = json.loads(data.read_text())
    write_json(data, [{**one, "answer": "Other."} for one in items])
    with pytest.raises(ValueError, match="is about other items"):
        run("gar-bench-captions", tmp_path / "out", *options)


def test_the_simple_captions_questions_are_the_benchmarks_own(tmp_path: Path) -> None:
    options = stored(tmp_path, "answered.json", "stored.json", gar_captions(tmp_path))
    with pytest.raises(ValueError, match=r"--set question cannot apply: .* has questions of its own; leave it out"):
        run("gar-bench-captions", tmp_path / "out", *options, "--set", "question=What is <Prompt0>?")


def test_gar_captions_show_image_crops_and_masks(tmp_path: Path) -> None:
    data = gar_captions(tmp_path)
    options = ("--data", data, "--image-folder", tmp_path, "--answers", tmp_path / "answered.json")

    def reply(body: dict[str, Any], again: int) -> Reply:
        if len(body["messages"]) > 1:
            return Reply("True")
        return Reply("true, I think" if "The same." in texts_of(body) else "False")

    with LlmServer(reply) as server:
        judge = ("--judge-model", "m", "--judge-endpoint", server.url, "--image-side", 30)
        values = run("gar-bench-captions", tmp_path / "out", *options, *judge)
    assert values["metrics"]["accuracy"] == pytest.approx(1 / 3)
    assert "without a readable" not in (tmp_path / "out" / "metrics.md").read_text()
    body = server.bodies[0]
    assert [image.size for image in images_of(body)] == [(30, 20)] * 5
    assert "3. The mask of <Prompt0>:" in texts_of(body)
    assert "{" not in texts_of(body)


def test_ferret_bench_from_stored_reviews(tmp_path: Path) -> None:
    data = ferret_bench(tmp_path)
    options = stored(tmp_path, "answers.jsonl", "reviews.jsonl", data)
    described = ("--set", "category=refer_desc")
    assert run("ferret-bench", tmp_path / "a", *options, *described)["metrics"]["all"] == pytest.approx(6 / 8)
    by_script = run("ferret-bench", tmp_path / "b", *options, *described, *SCRIPT)
    assert by_script["metrics"]["all"] == pytest.approx(2.5 / 3.5)
    assert run("ferret-bench", tmp_path / "c", *options)["groups"]["category"]["ground_conv"]["score"] == pytest.approx(
        3 / 9
    )
    review = (tmp_path / "reviews.jsonl").read_text()
    (tmp_path / "reviews.jsonl").write_text(review.replace("A cup.", "A mug."))
    with pytest.raises(ValueError, match=r"judges another answer to refer_caption/question\.jsonl 2"):
        run("ferret-bench", tmp_path / "d", *options)
    said = [{"category": "refer_desc", "image": f"{number}.png", "text": "A dog."} for number in (1, 0)]
    write_lines(tmp_path / "answers.jsonl", [one | {"question_id": 0} for one in said])
    with pytest.raises(ValueError, match=r"an answer about 1\.png stands where 0\.png is asked"):
        run("ferret-bench", tmp_path / "d", *options)


@pytest.mark.parametrize("region", ["box", "point"])
def test_mdvp_bench_judges_each_answer_on_its_own_image(tmp_path: Path, region: str) -> None:
    folder = mdvp_bench(tmp_path)
    options = ("--data", folder, "--image-folder", folder / "data", "--answers", folder / "answers.jsonl")
    points = {"natural": "5 10", "web": "10 5", "android": "4 4"}

    def reply(body: dict[str, Any], again: int) -> Reply:
        return Reply(next(text for part, text in points.items() if f"It is {part}_" in texts_of(body)))

    with LlmServer(reply) as server:
        judge = ("--judge-model", "m", "--judge-endpoint", server.url)
        values = run("mdvp-bench", tmp_path / "out", *options, *judge, "--set", f"region={region}")
    want = {"mean of domains": (2 + 0.75) / 2, "natural": 2.0, "screenshot": 0.75, "all": 1.0}
    assert values["metrics"] == pytest.approx(want)
    assert values["published"] == []
    natural = next(body for body in server.bodies if "It is natural_" in texts_of(body))
    assert "The image is a natural image." in texts_of(natural)
    assert ("natural_detailed_caption" in texts_of(natural).partition("[End")[0]) == (region == "box")
    (image,) = images_of(natural)
    colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert image.size == (60, 40)
    assert {(0, 0, 200), (230, 25, 75)} <= set(map(tuple, colours.tolist()))
    assert ((0, 130, 200) in set(map(tuple, colours.tolist()))) == (region == "box")  # the second of two boxes


@real
@pytest.mark.parametrize(
    ("model", "judge", "sees", "want"),
    [
        ("gar_1b", "eval", "text", (0.6795, 0.48892, 0.87)),
        ("gar_8b", "eval", "text", (0.6738, 0.50158, 0.846)),
        ("gar_1b", "eval_gpt", "image", (0.7670, 0.65792, 0.876)),  # 77.1 is published
        ("gar_8b", "eval_gpt", "image", (0.7700, 0.68, 0.86)),
    ],
)
def test_published_numbers_of_dlc_bench(
    model: str, judge: str, sees: str, want: tuple[float, ...], tmp_path: Path
) -> None:
    folder = Path(str(DATA), "dlc_bench")
    replies = folder / "model_outputs" / f"{model}_{judge}.json"
    prompt = ("--set", f"judge_prompt={replies}", "--set", f"judge_sees={sees}")
    answers = f"model_outputs/{model}.json"
    values = run("dlc-bench", tmp_path, *stored(folder, answers, f"model_outputs/{replies.name}"), *prompt)
    found = [values["metrics"][name] for name in ("average", "positive", "negative")]
    assert found == pytest.approx(want, abs=5e-5)
    assert (values["samples"], values["judge"]["questions"]) == (100, 992)
    assert values["judge"]["without a readable reply"] == 0


@real
@pytest.mark.parametrize(
    ("model", "kind", "want"),
    [
        ("gar_1b", "Simple", 54 / 97),
        ("gar_8b", "Simple", 62 / 97),
        ("gar_1b", "Detailed", 71 / 107),
        ("gar_8b", "Detailed", 74 / 107),
    ],
)
def test_published_numbers_of_gar_bench_captions(model: str, kind: str, want: float, tmp_path: Path) -> None:
    folder = Path(str(DATA), "gar_bench")
    names = [f"model_outputs/{model}_{kind.lower()}{part}.json" for part in ("", "_eval")]
    values = run("gar-bench-captions", tmp_path, *stored(folder, *names, folder / f"GAR-Bench-Caption-{kind}.json"))
    assert values["metrics"]["accuracy"] == pytest.approx(want)
    assert want in [one["value"] for one in values["published"]]
