"""Tasks of records in training, on both hosts: all bad ones named at the start, and what the adapters then get."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pvit_ext.adapters.lion.mixture import MixtureOfAdapters
from pvit_ext.adapters.lion.router import QUESTIONS, QuestionRouter, pad_questions
from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig, regions_to_json
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.data.task_survey import TaskSurvey
from pvit_ext.tokens.serialization import write_region_files
from pvit_ext.training.arguments import ModelFlags
from pvit_ext.training.held_out import HeldOut
from pvit_ext.training.lion_data import check_lion, config_by_flags, prepare_data
from pvit_ext.training.tracking import Sample, Tracking
from pvit_ext.training.trainer import RegionTrainer
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training import runs
from tests.training.records import make_dataset, record

TASKS = Tasks(("region", "image"))
WITH_ADAPTERS = RegionConfig(lion_adapters=4)
BY_QUESTION = Tasks(("region", "image"), by_question=True)
WHOLE = "what is it ?"


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    (folder / "some.json").write_text(json.dumps([{**one, "id": str(number)} for number, one in enumerate(records)]))
    return folder / "some.json"


def whole(**more: Any) -> dict[str, Any]:
    """A record without regions."""
    return record(0, WHOLE, ()) | more


def answering(text: str) -> dict[str, Any]:
    turns = [record(0)["conversations"][0], {"from": "gpt", "value": text}]
    return record(0) | {"conversations": turns}


def two_turns() -> dict[str, Any]:
    turns = [
        ("human", "<image>\nwhat is <region> ?"),
        ("gpt", "seven red"),
        ("human", "where is it ?"),
        ("gpt", "left"),
    ]
    return record(0) | {"conversations": [{"from": who, "value": text} for who, text in turns]}


@cache
def processor_of_transformers() -> Any:
    from tests.training.test_transformers_host import with_regions

    return with_regions("llava")[1]


@pytest.fixture(params=["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def dataset_over(request: pytest.FixtureRequest, llava_checkpoint: Path, data: Path, template: None) -> Any:
    """Makes a host's dataset over records, for a model with adapters for two tasks."""

    def make(records: list[dict[str, Any]], tasks: Tasks | None = TASKS, style: str | None = None) -> Any:
        path = write(data.parent, records)
        if request.param == "llava":
            dataset = make_dataset(llava_checkpoint, path)
        else:
            from tests.training.test_transformers_host import dataset_of

            dataset = dataset_of(path, processor_of_transformers())
        dataset.region_processor = replace(dataset.region_processor, tasks=tasks, tag_style=style)
        return dataset

    return make


def test_all_unknown_tasks_are_named_at_the_start_and_the_others_counted(dataset_over: Any) -> None:
    records = [record(0), whole(), whole(lion_task="box"), whole(lion_task="region"), record(0) | {"lion_task": 3}]
    dataset = dataset_over([*records, whole(lion_task=None)])
    with pytest.raises(RecordError) as raised:
        dataset.use_tasks()
    known = "is none of the model's: region, image"
    assert [problem.partition(" (id ")[2] for problem in raised.value.problems] == [
        f"'2'): the task 'box' {known}",
        f"'4'): the task 3 {known}",
    ]
    dataset.bad_records = BadRecords(2)
    assert dataset.use_tasks() == "tasks: region 2, image 2"
    dataset.bad_records = BadRecords(1)
    with pytest.raises(RecordError, match="allows 1"):
        dataset.use_tasks()


def test_tasks_that_nobody_says_where_the_usual_ones_are_not_the_models(dataset_over: Any) -> None:
    dataset = dataset_over([record(0), whole(), whole(lion_task="b")], Tasks(("a", "b")))
    with pytest.raises(
        RecordError, match=r"2 bad records(.|\n)*with regions is of the task 'region'(.|\n)*'lion_task'"
    ):
        dataset.use_tasks()


def test_a_router_takes_what_nobody_says(dataset_over: Any) -> None:
    dataset = dataset_over([record(0), whole(), whole(lion_task="region")], BY_QUESTION)
    assert dataset.use_tasks() == "tasks: region 1, image 0, by the question 2"
    said: list[str] = []
    dataset.bad_records = BadRecords(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pvit_ext.training.lion_data.say", said.append)
        prepare_data(dataset, SimpleNamespace(tag_noise=TagNoise()), "lion_image")
    assert said == ["tasks: region 1, image 2"], "in a stage of one task its adapters take them"


def test_bad_tasks_and_bad_tags_are_named_together(dataset_over: Any) -> None:
    records = [record(0) | {"tags": ["cat"]}, answering("a <hint>"), whole(lion_task="box"), whole(tags="dog")]
    dataset = dataset_over(records, style="hint")
    flags = SimpleNamespace(tag_noise=TagNoise())
    with pytest.raises(RecordError, match="3 bad records"):
        prepare_data(dataset, flags, "finetune")
    dataset.bad_records = BadRecords(2)
    with pytest.raises(RecordError, match="3 bad records, --max_bad_records allows 2"):
        prepare_data(dataset, flags, "finetune")
    dataset.bad_records = BadRecords(3)
    prepare_data(dataset, flags, "finetune")


def test_bad_tags_are_named_where_no_others_are_left(dataset_over: Any) -> None:
    dataset = dataset_over([whole(tags="dog")], style="hint")
    with pytest.raises(RecordError, match="tags is a list"):
        prepare_data(dataset, SimpleNamespace(tag_noise=TagNoise()), "finetune")


def test_hints_in_answers_are_named_with_the_bad_tags(dataset_over: Any) -> None:
    records = [record(0) | {"tags": ["cat"]}, answering("a <hint>"), record(0) | {"tags": "dog"}]
    dataset = dataset_over(records, None, "hint")
    with pytest.raises(
        RecordError, match=r"2 bad records(.|\n)*'2'\): tags is a list(.|\n)*'1'\): <hint> stands in an"
    ):
        dataset.use_tags(TagNoise())
    dataset.bad_records = BadRecords(2)
    assert "1 have tags" in str(dataset.use_tags(TagNoise()))
    assert "1 have tags" in str(dataset_over(records[:2], None, "plain").use_tags(TagNoise())), "text in such a model"


@pytest.mark.parametrize(
    ("style", "bad", "said"),
    [(None, whole(lion_task="box"), "the task 'box' is none"), ("hint", answering("a <hint>"), "<hint> stands in an")],
)
def test_held_out_records_are_looked_at_before_the_first_step(
    dataset_over: Any, data: Path, style: str | None, bad: dict[str, Any], said: str
) -> None:
    training = dataset_over([record(0)], style=style)
    held_out = load_records(write(data.parent, [record(0), bad, bad]))
    with pytest.raises(RecordError, match=rf"2 bad records(.|\n)*'1'\): {said}(.|\n)*'2'\): {said}"):
        HeldOut(SimpleNamespace(train_dataset=training, args=SimpleNamespace(region_eval_records=None)), held_out)
    mixed = [bad, whole(lion_task="car"), whole(tags="dog"), answering("a <hint>")]
    training = dataset_over([record(0)], style="hint")
    records = load_records(write(data.parent, [record(0) | {"tags": ["cat"]}, *mixed]))
    with pytest.raises(RecordError, match=r"4 bad records"):
        HeldOut(SimpleNamespace(train_dataset=training, args=SimpleNamespace(region_eval_records=None)), records)
    one = SimpleNamespace(region_eval_records=1, region_eval_data=str(data.parent / "some.json"))
    assert HeldOut(SimpleNamespace(train_dataset=training, args=one), held_out).count == 1, "the others are not asked"


def test_what_the_model_does_not_read_is_said_whichever_record_has_it(dataset_over: Any) -> None:
    dataset = dataset_over([whole(), whole(tags=["cat"], lion_task="image")], None)
    assert str(dataset.use_tags(TagNoise())).startswith("the records have tags, and the model does not read them")
    assert str(dataset.use_tasks()).startswith("the records say tasks ('lion_task'), and the model has no adapters")
    assert dataset_over([whole()], None).use_tasks() is None


def test_wrong_tags_need_two_to_draw_from(dataset_over: Any) -> None:
    dataset = dataset_over([whole(tags=["Cat"]), whole(tags=["cat"])], None, "plain")
    with pytest.raises(ValueError, match=r"--tag_wrong 0\.5 draws from the tags .* share one, 'Cat': no tag is ever"):
        dataset.use_tags(TagNoise(wrong=0.5))
    assert dataset.use_tags(TagNoise(drop=0.5)) is not None


def test_a_record_says_its_task_and_its_questions_alone_are_routed_by(dataset_over: Any) -> None:
    dataset = dataset_over([whole(lion_task="region"), whole(), record(0), two_turns()], BY_QUESTION)
    assert [dataset[number]["tasks"].tolist() for number in range(4)] == [[0], [-1], [-1], [-1]]
    ids = dataset.tokenizer("what is   ?\nwhere is it ?", add_special_tokens=False)["input_ids"]
    assert dataset[3][QUESTIONS][0].tolist() == pad_questions([ids])[0].tolist()
    dataset = dataset_over([whole(lion_task="region"), whole(), record(0)])
    assert [dataset[number]["tasks"].tolist() for number in range(3)] == [[0], [1], [0]]


def check(
    folder: Path, records: list[dict[str, Any]], stage: str, config: RegionConfig = WITH_ADAPTERS, **more: Any
) -> None:
    path = write(folder, records)
    read = load_records(path, folder), BadRecords(more.pop("bad", 0))
    training = SimpleNamespace(stage=stage, allow_no_gradient=more.get("allow", False))
    check_lion(config, SimpleNamespace(read=read, tag_noise=more.get("noise", TagNoise())), training)


def test_what_flags_and_the_file_tell_of_lion_is_told_before_a_model_loads(data: Path) -> None:
    records = [whole(), record(0)]
    with pytest.raises(ValueError, match="--stage lion_image trains adapters by task, the model has none: give"):
        check(data.parent, records, "lion_image", RegionConfig())
    with pytest.raises(ValueError, match="change tags; the model reads none: --region_lion_tags hint"):
        check(data.parent, records, "finetune", RegionConfig(), noise=TagNoise(drop=0.5))
    with pytest.raises(ValueError, match=r"reads tags, and no record has any \(2 records.*`pvit-ext data tags` writes"):
        check(data.parent, records, "finetune", RegionConfig(lion_tags="hint"))
    check(data.parent, records, "finetune", RegionConfig())


def test_a_stage_without_a_sample_of_its_task_is_refused_before_a_model_loads(data: Path) -> None:
    folder, images, regions = data.parent, [whole()] * 12, [record(0)] * 3
    with pytest.raises(ValueError, match=r"--stage lion_region: no record is of the task region \(12 are image\)"):
        check(folder, images, "lion_region")
    with pytest.raises(ValueError, match=r"--stage lion_mixed: no record is of the task image \(3 are region\)"):
        check(folder, regions, "lion_mixed")
    with pytest.raises(ValueError, match="no task 'box'; its stages of LION are lion_region, lion_image, lion_mixed"):
        check(folder, regions, "lion_box")
    with pytest.raises(RecordError, match="the task 'box' is none"):
        check(folder, [*images, whole(lion_task="box")], "align")
    with pytest.raises(ValueError, match=r"no record is of the task image \(all are bad\)"):
        check(folder, [whole(lion_task="box")], "lion_image", bad=1)
    check(folder, images, "lion_region", allow=True)
    by_question = replace(WITH_ADAPTERS, lion_routing="question")
    check(folder, images, "lion_region", by_question)  # of the task that the stage trains
    check(folder, images, "lion_mixed", by_question)  # the router may send them anywhere
    for stage in ("lion_image", "align", "finetune"):
        check(folder, images, stage)


def test_tasks_are_known_by_the_checkpoints_config_or_by_flags(tmp_path: Path) -> None:
    flags = ModelFlags(model_name_or_path=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert Tasks.of(config_by_flags(flags)) is None
    flags.region_lion_adapters = 4
    assert Tasks.of(config_by_flags(flags)) == TASKS
    flags.region_lion_adapters, flags.region_lion_tasks = None, "a,b"
    with pytest.raises(ValueError, match="lion_tasks 'a,b' cannot apply without adapters"):
        config_by_flags(flags)


def test_tasks_of_the_base_stay_under_a_folder_without_adapters(tmp_path: Path) -> None:
    stored = regions_to_json(WITH_ADAPTERS, EncoderFacts(8, 1))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", CONFIG_KEY: stored}))
    modules = tmp_path / "modules"
    write_region_files(modules, {}, regions_to_json(RegionConfig(), EncoderFacts(8, 1)), None, False)
    flags = ModelFlags(model_name_or_path=str(tmp_path), region_modules=str(modules))
    assert Tasks.of(config_by_flags(flags)) == TASKS


def test_the_survey_of_many_records_reads_none_of_them() -> None:
    count = 200_000
    records: Any = SimpleNamespace(
        task_numbers=np.arange(count) % 3 - 1, region_counts=np.arange(count) % 2, named_tasks=["image", "region"]
    )
    survey = TaskSurvey.of(records, TASKS)
    assert not survey.bad
    assert sum(survey.counts.values()) == count


HOSTS = ["llava", *[pytest.param("transformers", marks=pytest.mark.slow)] * HAS_TRANSFORMERS_HOST]


def noting_routes(monkeypatch: pytest.MonkeyPatch, routes: set[tuple[str, int]]) -> None:
    """Note which adapters samples go to, by what runs the model."""
    runs_the_model: list[str] = []

    def watch(owner: Any, name: str) -> None:
        stock = getattr(owner, name)

        def call(*given: Any, **named: Any) -> Any:
            runs_the_model.append(name)
            try:
                return stock(*given, **named)
            finally:
                runs_the_model.pop()

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((RegionTrainer, "training_step"), (HeldOut, "_loss"), (HeldOut, "_accuracy")):
        watch(owner, name)
    watch(Tracking, "_answer")
    forward = MixtureOfAdapters.forward

    def noting(self: Any, x: Any, mix: Any) -> Any:
        if runs_the_model:
            routes.update((runs_the_model[-1], number) for number in mix.argmax(1).tolist())
        return forward(self, x, mix)

    monkeypatch.setattr(MixtureOfAdapters, "forward", noting)


@pytest.mark.parametrize("host", HOSTS)
def test_a_stage_of_one_task_trains_its_adapters_by_records_that_say_none(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    request.param = host
    given, checkpoint, data = runs.of_host(request, tmp_path)
    lion = {"stage": "lion_image", "region_lion_adapters": 4, "region_lion_routing": "question", "max_steps": 2}
    eval_data = {"region_eval_data": data, "region_eval_records": 1}
    routes: set[tuple[str, int]] = set()
    noting_routes(monkeypatch, routes)
    to_regions = torch.tensor([1.0, 0.0])
    monkeypatch.setattr(QuestionRouter, "forward", lambda _, asked: to_regions.expand(len(asked), 2))
    trainer = given.run(monkeypatch, given.flags(checkpoint, data, tmp_path / "out", **lion, **eval_data))
    trainer.tracking.samples = [Sample.of(load_records(str(data), str(data.parent))[0])]
    trainer.tracking._answer()
    assert routes == {(where, 1) for where in ("training_step", "_loss", "_accuracy", "_answer")}
    dataset = trainer.train_dataset
    assert dataset.region_processor.tasks.alone == "image"
    adapters = {name: one for name, one in trainer.model.named_parameters() if "adapters" in name and ".up." in name}
    moved = {name.split("adapters.")[-1][0] for name, one in adapters.items() if one.detach().any()}
    assert moved == {"1"}, "those of the image"
    if host == "llava":
        assert trainer.batch_of_all["tasks"].min() == 1
