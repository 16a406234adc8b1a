"""Tags of images in training: read from the records, changed by seed and epoch, and never missing without a word."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pvit_ext.adapters.lion.hint import TagHint
from pvit_ext.config import RegionConfig
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import RecordError
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.evaluation.task import TaskOptions
from pvit_ext.evaluation.tasks.own import Own
from pvit_ext.prompt import HINT_TOKEN_INDEX
from pvit_ext.tokens.processor import RegionProcessor
from pvit_ext.training.held_out import query_of
from pvit_ext.training.llava.arguments import RegionDataArguments
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training import runs
from tests.training.conftest import llava_conversation
from tests.training.records import make_dataset

NOISE = {"tag_drop": 0.3, "tag_wrong": 0.5, "tag_shuffle": True}
READS = RegionProcessor(tag_style="hint")
WORDS = "cat dog red blue seven digits".split()


def write(folder: Path, data: Path, tags: Any, **changed: str) -> Path:
    """The records of a file with tags: those of a list by number, a function's, or the same for all."""
    records = json.loads(data.read_text())
    for number, record in enumerate(records):
        if "image" in record:
            record["tags"] = tags(number) if callable(tags) else tags
        record["conversations"][0]["value"] = changed.get(str(number), record["conversations"][0]["value"])
    path = data.parent / f"{folder.name}.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def tagged(llava_checkpoint: Path, data: Path, tmp_path: Path, template: None) -> Any:
    """LLaVA's dataset over records with tags: a list, an empty one, none."""
    lists: dict[int, Any] = {2: [], 3: None}
    path = write(tmp_path, data, lambda number: lists.get(number, WORDS[: number + 1]), **{"7": "What is <hint> ?"})
    dataset = make_dataset(llava_checkpoint, path)
    dataset.region_processor = READS
    return dataset


def test_tags_stand_in_the_prompt_with_a_hint_for_each(tagged: Any) -> None:
    said = tagged.use_tags(TagNoise())
    assert said == (
        "tags of images (hint): records: 5 have tags, 1 have an empty list, 1 have none and are asked without, "
        "1 have no image; 6 different tags"
    )
    hints = [int((tagged[number]["input_ids"] == HINT_TOKEN_INDEX).sum()) for number in range(8)]
    assert hints == [1, 1, 0, 0, 1, 1, 1, 1], "the last is the one in a text without an image"
    ids, labels = tagged[1]["input_ids"], tagged[1]["labels"]
    words = tagged.tokenizer.decode(ids[(ids >= 0) & (labels == -100)])
    assert "these tags of the image: [cat, dog]." in words
    assert int(labels[ids == HINT_TOKEN_INDEX].max()) == -100


def test_noise_is_the_same_in_an_epoch_that_is_resumed_and_moves_no_box(tagged: Any) -> None:
    tagged.data_args.region_jitter = 0.02
    quiet = [tagged[(1, number)]["regions"][0].points for number in (4, 5)]
    tagged.use_tags(TagNoise(0.3, 0.5, True))
    assert tagged.tag_noise.vocabulary == tuple(sorted(WORDS))
    first, second, again = ([tagged[(epoch, number)] for number in (4, 5)] for epoch in (0, 1, 1))
    assert [item["input_ids"].tolist() for item in second] == [item["input_ids"].tolist() for item in again]
    assert [item["input_ids"].tolist() for item in first] != [item["input_ids"].tolist() for item in second]
    assert [item["regions"][0].points for item in second] == quiet


def test_a_file_without_tags_and_noise_without_a_model_that_reads_them_are_refused(
    llava_checkpoint: Path, data: Path, template: None
) -> None:
    dataset = make_dataset(llava_checkpoint, data)
    with pytest.raises(ValueError, match=r"the model reads none: --region_lion_tags hint \(or plain\)"):
        dataset.use_tags(TagNoise(drop=0.1))
    assert dataset.use_tags(TagNoise()) is None
    dataset.region_processor = READS
    with pytest.raises(ValueError, match=r"no record has any .*7 images.*; `pvit-ext data tags` writes them"):
        dataset.use_tags(TagNoise())


def test_a_template_that_drops_the_question_drops_no_tags(tagged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    templates = llava_conversation.conv_templates
    monkeypatch.setattr(llava_conversation, "default_conversation", templates["plain"])
    for style in ("hint", "plain"):
        tagged.region_processor = RegionProcessor(tag_style=style)
        with pytest.raises(ValueError, match=r"--version plain drops the question.*use another template"):
            tagged.use_tags(TagNoise())


def test_tags_that_nobody_reads_are_said(llava_checkpoint: Path, data: Path, tmp_path: Path, template: None) -> None:
    dataset = make_dataset(llava_checkpoint, write(tmp_path, data, ["cat"]))
    assert str(dataset.use_tags(TagNoise())).startswith("the records have tags, and the model does not read them")
    assert HINT_TOKEN_INDEX not in dataset[0]["input_ids"]


def test_bad_tags_name_all_their_records_at_the_start(
    llava_checkpoint: Path, data: Path, tmp_path: Path, template: None
) -> None:
    bad = {0: "cat, dog", 2: ["<image>"], 4: ["dog", 3], 5: ["</s>"]}
    path = write(tmp_path, data, lambda number: bad.get(number, ["cat"]))
    dataset = make_dataset(llava_checkpoint, path)
    dataset.region_processor = READS
    with pytest.raises(
        RecordError, match=r"4 bad records(.|\n)*'0'.*list of texts(.|\n)*<image>(.|\n)*tags\[1\](.|\n)*</s>"
    ):
        dataset.use_tags(TagNoise())
    dataset.bad_records = BadRecords(4)
    dataset.use_tags(TagNoise())
    assert dataset[0]["input_ids"].tolist() == dataset[1]["input_ids"].tolist(), "the next good one in its place"


def test_a_hint_in_an_answer_and_one_that_is_cut_are_refused(tagged: Any, data: Path, tmp_path: Path) -> None:
    record = tagged.records[4]
    turns = [record.data["conversations"][0], {"from": "gpt", "value": "as <hint> says"}]
    with pytest.raises(RecordError, match=r"line .*<hint> stands in an answer"):
        tagged._item(replace(record, data={**record.data, "conversations": turns}), None)
    turns = [*record.data["conversations"], {"from": "human", "value": "and <hint> ?"}, {"from": "gpt", "value": "no"}]
    longer = replace(record, data={**record.data, "conversations": turns})
    ids = tagged._item(longer, None)["input_ids"]
    last = int((ids == HINT_TOKEN_INDEX).nonzero()[-1])
    end = tagged.region_processor.count_positions(ids[: last + 1], [tagged.layout.positions((90, 60))])
    tagged.tokenizer.model_max_length = end
    assert torch.equal(tagged._item(longer, None)["input_ids"], ids)
    tagged.tokenizer.model_max_length = end - 1  # behind the first answer and the last region
    with pytest.raises(
        RecordError, match=rf"its last hint ends at position {end}, --model_max_length is {end - 1}; raise it"
    ):
        tagged._item(longer, None)


def test_evaluation_asks_with_the_tags_of_the_records_where_the_model_reads_them(data: Path, tmp_path: Path) -> None:
    path = write(tmp_path, data, ["cat"])
    samples = list(Own(TaskOptions(path, str(path.parent))).load())
    query = query_of(samples[0])
    assert query.tags == ["cat"]
    for style, wanted in (("plain", ["cat"]), (None, None)):
        model = SimpleNamespace(region_config=RegionConfig(lion_tags=style))
        assert query.read_by(model).tags == wanted


@pytest.mark.parametrize("flags", [{"tag_drop": -0.1}, {"tag_wrong": 1.2}])
def test_chances_out_of_range_are_refused(flags: dict[str, float]) -> None:
    (name,) = flags
    with pytest.raises(ValueError, match=f"--{name} .*give a chance, 0 to 1"):
        RegionDataArguments(**flags)


@pytest.mark.slow
@pytest.mark.parametrize("own", [{"stage": "align"}, {"stage": "finetune", "lora_enable": True}], ids=["align", "lora"])
@pytest.mark.parametrize("host", ["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def test_training_moves_the_hint_and_resumes_to_the_bit(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, own: dict[str, Any]
) -> None:
    request.param = host
    given, checkpoint, data = runs.of_host(request, tmp_path)
    path = write(tmp_path, data, lambda number: WORDS[number % 3 :] if number != 1 else None)
    kept = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "logging_steps": 1, "region_lion_tags": "hint"}

    starts: list[Any] = []
    write_hints = TagHint.write
    monkeypatch.setattr(
        TagHint,
        "write",
        lambda part, *given: (starts.append(part.weight.detach().clone()), write_hints(part, *given))[1],
    )

    def start(output: str) -> Any:
        arguments = given.flags(checkpoint, path, tmp_path / output, **kept, **NOISE, **own)
        with monkeypatch.context() as patch:
            return given.run(patch, arguments)

    whole = start("whole")
    start("cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    resumed = start("cut")
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)]
    assert losses[0] == losses[1]
    parameters = dict(whole.model.named_parameters())
    for name, one in resumed.model.named_parameters():
        assert torch.equal(one, parameters[name]), name
    base = getattr(whole.model, "get_base_model", lambda: whole.model)()
    hint = base.region_module.lion["region_hint"].weight
    assert torch.equal(load_file(tmp_path / "whole" / "region_modules.safetensors")["region_hint.weight"], hint)
    assert (hint - starts[0]).abs().max() > 1e-3
