"""Our tasks and checkpoints in lmms-eval; where it is not installed, with a stand-in for its two classes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext import RegionConfig, cli
from pvit_ext.data.tags.tags import HINT_STYLE
from pvit_ext.evaluation.arms import Arm
from pvit_ext.regions.region import Region

INSTALLED = importlib.util.find_spec("lmms_eval") is not None


class Lmms:
    """What our model uses of lmms-eval's."""

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our model's module."""
    if not INSTALLED:
        names = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.api.instance")
        stands_in = {name: ModuleType(name) for name in names}
        stands_in["lmms_eval.api.model"].lmms = Lmms  # type: ignore[attr-defined]
        stands_in["lmms_eval.api.instance"].Instance = SimpleNamespace  # type: ignore[attr-defined]
        for name, module in stands_in.items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "pvit_ext.evaluation.lmms_eval.model", raising=False)
    yield importlib.import_module("pvit_ext.evaluation.lmms_eval.model")
    sys.modules.pop("pvit_ext.evaluation.lmms_eval.model", None)


def export(own_set: Path, out: Path, *options: str, task: str = "own") -> int:
    data = ["--data", str(own_set / "data.jsonl"), "--image-folder", str(own_set), "--out", str(out)]
    return cli.main(["eval", task, *data, "--lmms-eval", *options])


@pytest.fixture
def docs(own_set: Path, tmp_path: Path) -> list[dict[str, Any]]:
    assert export(own_set, tmp_path) == 0
    return [json.loads(line) for line in (tmp_path / "docs.jsonl").read_text().splitlines()]


def test_an_exported_task_shows_regions_to_our_model_and_marks_to_others(
    docs: list[dict[str, Any]], own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pvit_ext.evaluation.lmms_eval import docs as functions

    yaml = (tmp_path / "pvit_ext_own.yaml").read_text()
    assert "task: pvit_ext_own\n" in yaml
    assert json.dumps(str(tmp_path / "docs.jsonl")) in yaml
    assert [doc["id"] for doc in docs][:2] == ["0.0", "0.1"]
    ours = {"arm": "regions"}
    image, region = functions.visuals(docs[0], ours)
    assert isinstance(region, Region)
    assert functions.text(docs[0], ours) == "What is in <region>?"
    (marked,) = functions.visuals(docs[0])
    assert functions.text(docs[0], {"arm": "marks"}) == "What is in the object within the red rectangle?"
    assert (np.asarray(marked) != np.asarray(image)).any()
    assert (np.asarray(image) == np.asarray(Image.open(own_set / "0.png").convert("RGB"))).all()


def test_the_score_is_the_tasks_own(docs: list[dict[str, Any]]) -> None:
    from pvit_ext.evaluation.lmms_eval import docs as functions

    items = [functions.results(doc, ["a red cat"])["pvit_ext_score"] for doc in docs]
    assert functions.main_metric(items) == pytest.approx(3 / 9)


def test_tags_and_the_task_of_adapters_reach_our_model_alone(adapter: Any, own_set: Path, tmp_path: Path) -> None:
    from pvit_ext.evaluation.lmms_eval import docs as functions

    first, second = map(json.loads, (own_set / "data.jsonl").read_text().splitlines()[:2])
    told = {**first, "tags": ["cat", "dog"], "lion_task": "image"}
    (tmp_path / "data.jsonl").write_text(json.dumps(told) + "\n" + json.dumps(second) + "\n")
    for image in own_set.glob("*.png"):
        shutil.copy(image, tmp_path)
    assert export(tmp_path, tmp_path / "task") == 0
    with_tags, *_, without = map(json.loads, (tmp_path / "task" / "docs.jsonl").read_text().splitlines())
    ours = {"arm": "regions"}
    assert functions.visuals(with_tags, ours)[-1] == functions.Meant("image", None, ["cat", "dog"])
    assert not any(isinstance(one, functions.Meant) for one in functions.visuals(with_tags, {"arm": "marks"}))
    assert not any(isinstance(one, functions.Meant) for one in functions.visuals(without, ours))
    model = adapter.PvitExt.__new__(adapter.PvitExt)
    model.arm = Arm("regions")
    config = RegionConfig(lion_adapters=4, lion_tasks="image,region")
    for own, tags in ((replace(config, lion_tags=HINT_STYLE), ["cat", "dog"]), (config, None)):
        model.model = SimpleNamespace(region_config=own)
        asked = request(functions.text(with_tags, ours), functions.visuals(with_tags, ours), {}, 0)
        model.task_dict = {"t": {"test": [{"visuals": asked.visuals}]}}
        query = model._query(asked)
        assert (query.task, query.tags) == ("image", tags)


def test_the_task_is_named_in_the_command(own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(own_set, tmp_path, "--set", "match=words") == 0
    assert f"--include_path {tmp_path} --tasks pvit_ext_own" in capsys.readouterr().out
    assert json.loads((tmp_path / "task.json").read_text())["settings"] == {"match": "words"}


@pytest.mark.parametrize(
    ("options", "task", "said"),
    [
        (["--model", "m"], "own", "--model cannot apply with --lmms-eval"),
        (["--limit", "2", "--report-to", "wandb"], "own", "--limit, --report-to cannot apply"),
        (["--set", "history=yes"], "own", "single questions"),
        (["--judge-model", "m"], "own", "--judge-model cannot apply with --lmms-eval"),
    ],
)
def test_what_cannot_be_exported(
    options: list[str], task: str, said: str, own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(own_set, tmp_path / "out", *options, task=task) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def request(text: str, visuals: list[Any], options: dict[str, Any], number: int) -> Any:
    return SimpleNamespace(args=(text, options, lambda doc: doc["visuals"], number, "t", "test"), visuals=visuals)


def ask_ours(model: Any, requests: list[Any]) -> list[str]:
    model.task_dict = {"t": {"test": [{"visuals": one.visuals} for one in requests]}}
    answers: list[str] = model.generate_until(requests)
    return answers


@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_our_model_answers_as_eval_does(
    adapter: Any, checkpoint: Path, evaluate: Any, docs: list[Any], tmp_path: Path
) -> None:
    from pvit_ext.evaluation.lmms_eval import docs as functions

    evaluate("--model", checkpoint, "--max-new-tokens", 4, "--device", "cpu")
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    want = {line["id"]: line["answer"] for line in lines if "id" in line}
    model = adapter.PvitExt(str(checkpoint), device="cpu", batch_size="4")
    options, ours = {"max_new_tokens": 4, "temperature": 0, "do_sample": False, "num_beams": 1}, {"arm": "regions"}
    asked = [
        request(functions.text(doc, ours), functions.visuals(doc, ours), dict(options), number)
        for number, doc in enumerate(docs)
    ]
    asked[1].args[1]["until"] = ["\n"]  # a batch of its own
    assert ask_ours(model, asked) == [want[doc["id"]] for doc in docs]
    image = Image.new("RGB", (60, 40))
    assert len(ask_ours(model, [request("What is this?", [image], {"max_new_tokens": 2}, 0)])) == 1
    inline = request("<image>\nWhat is <Region>[0.1, 0.1, 0.5, 0.9]</Region>?", [image], {"max_new_tokens": 2}, 0)
    shown = request("What is <region>?", [image, Region.box(6, 4, 30, 36)], {"max_new_tokens": 2}, 0)
    assert ask_ours(model, [inline]) == ask_ours(model, [shown])
    with pytest.raises(ValueError, match="is shown images and regions, got str"):
        ask_ours(model, [request("What?", ["video.mp4"], {}, 0)])
    for call in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="leave out tasks"):
            call([])


@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_regions_of_a_checkpoint_without_any(adapter: Any, checkpoint: Path) -> None:
    stock = checkpoint.parent / "stock"
    image = request(
        "Is <region> red?", [Image.new("RGB", (60, 40)), Region.box(6, 4, 30, 36)], {"max_new_tokens": 2}, 0
    )
    with pytest.raises(ValueError, match=r"has no regions, and t test 0 has: --model_args arm=image, text or marks"):
        ask_ours(adapter.PvitExt(str(stock), device="cpu"), [image])
    assert len(ask_ours(adapter.PvitExt(str(stock), device="cpu", arm="text"), [image])) == 1
    with pytest.raises(ValueError, match="--batch_size auto: a number from 1 on"):
        adapter.PvitExt(str(stock), batch_size="auto")


def test_each_process_has_a_device_of_its_own(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def load(path: str, base: Any, device: str, dtype: Any) -> tuple[Any, ...]:
        devices.append(device)
        return None, None, None, 0

    monkeypatch.setattr(adapter, "load_pretrained_model", load)
    monkeypatch.setattr(adapter, "stored_region_config", lambda path, base: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    adapter.PvitExt("m")
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    adapter.PvitExt("m")
    adapter.PvitExt("m", device="cpu")
    assert devices == [None, "cuda:1", "cpu"]


def test_options_of_generation(adapter: Any, caplog: pytest.LogCaptureFixture) -> None:
    options = adapter._generate_options
    assert options({"max_new_tokens": 3, "temperature": 0, "top_p": 1.0, "num_beams": 2, "until": ["x"]}) == {
        "num_beams": 2
    }
    assert options({"temperature": 0.5, "top_p": 0.9}) == {"temperature": 0.5, "top_p": 0.9, "do_sample": True}
    assert options({"do_sample": True, "temperature": 0}) == {}
    steered = {"repetition_penalty": 1.2, "min_new_tokens": 3, "no_repeat_ngram_size": 2}
    assert options({**steered, "temperature": 0, "top_k": 5}) == steered
    sampled = {"temperature": 0.7, "top_k": 5, "repetition_penalty": 1.2, "do_sample": True}
    assert options({**sampled, "image_aspect_ratio": "pad", "top_p": None}) == sampled
    assert "without effect" not in caplog.text
    for _ in range(2):
        assert options({"num_beams": 2, "max_length": 9, "output_scores": True, "fps": 1}) == {"num_beams": 2}
    assert caplog.text.count("does not take it: max_length, output_scores, fps") == 1
    assert options({"do_sample": False, "temperature": 1.0}) == {}
    assert adapter._until("a\n\nb", ["\n\n", "z"]) == "a"


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="lmms-eval is not installed")
@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_end_to_end_without_a_network(checkpoint: Path, own_set: Path, tmp_path: Path) -> None:
    assert export(own_set, tmp_path / "task") == 0
    words = ["--model", "pvit_ext", "--model_args", f"pretrained={checkpoint},device=cpu", "--batch_size", "4"]
    words += [
        "--include_path",
        str(tmp_path / "task"),
        "--tasks",
        "pvit_ext_own",
        "--output_path",
        str(tmp_path / "out"),
    ]
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    environment = {**os.environ, **offline, "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert "|pvit_ext_own|none  |" in done.stdout
    (results,) = (tmp_path / "out").glob("*/*_results.json")
    assert "pvit_ext_score,none" in json.loads(results.read_text())["results"]["pvit_ext_own"]
