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
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.data.task_survey import TaskSurvey
from pvit_ext.training.held_out import HeldOut
from pvit_ext.training.lion_data import prepare_data
from pvit_ext.training.tracking import Sample, Tracking
from pvit_ext.training.trainer import RegionTrainer
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training import runs
from tests.training.records import make_dataset, record

TASKS = Tasks(("region", "image"))
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
