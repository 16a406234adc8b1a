"""``--max_bad_records``: counted over ranks, workers and resumes, listed once, replaced the same way everywhere."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pvit_ext
from pvit_ext import RegionConfig
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import BadRecord, RecordError, load_records
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.processor import RegionProcessor
from tests import samples  # noqa: F401  registers test_boxes
from tests.data.records import record, write
from tests.training.records import make_dataset
from tests.training.runs import flags, run

from llava import conversation as llava_conversation  # isort: skip
from llava.train import train as llava_train  # isort: skip

from pvit_ext.training.llava.arguments import RegionDataArguments  # isort: skip


def bad(number: int) -> BadRecord:
    return BadRecord(f"t line {number}", f"t line {number}: is bad")


def listed(folder: Path) -> list[str]:
    return [json.loads(line)["record"] for line in (folder / "bad_records.jsonl").read_text().splitlines()]


# At start-up


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    return tmp_path


def mixed(folder: Path, *bad_places: int, count: int = 6) -> Path:
    rows = [json.dumps(record(n, image="none.png" if n in bad_places else "a.png")) for n in range(count)]
    return write(folder, "\n".join(rows), "t.jsonl")


@pytest.mark.parametrize(
    ("places", "expected"),
    [((), "012345"), ((1,), "022345"), ((0, 1, 3), "222445"), ((5,), "012340"), ((4, 5, 0), "112311")],
)
def test_a_bad_record_is_replaced_by_the_next_good_one(folder: Path, places: tuple[int, ...], expected: str) -> None:
    """Its place stays, so that lengths and the order of samples are the same wherever a file is missing."""
    records = load_records(mixed(folder, *places), folder, BadRecords(3))
    assert "".join(one.data["id"] for one in records) == expected


def test_more_than_the_limit_is_an_error_with_the_list(folder: Path) -> None:
    with pytest.raises(
        RecordError, match=r"^2 bad records, --max_bad_records allows 1:\nt\.jsonl line 2 .*\nt.*line 4"
    ):
        load_records(mixed(folder, 1, 3), folder, BadRecords(1))
    with pytest.raises(RecordError, match=r"^t\.jsonl line 2 "):
        load_records(mixed(folder, 1), folder, BadRecords(0))


def test_nothing_replaces_the_rest_of_a_broken_array_or_a_file_without_a_good_record(folder: Path) -> None:
    """How many records are lost is not known."""
    with pytest.raises(RecordError, match="neither ',' nor ']'"):
        load_records(write(folder, f"[{json.dumps(record())}"), folder, BadRecords(9))
    with pytest.raises(RecordError, match="2 bad records"):
        load_records(mixed(folder, 0, 1, count=2), folder, BadRecords(9))
    with pytest.raises(RecordError, match="holds no record"):
        load_records(write(folder, ""), folder, BadRecords(9))


def test_the_limit_is_a_count() -> None:
    with pytest.raises(ValueError, match="--max_bad_records -1"):
        RegionDataArguments(max_bad_records=-1)


# The list


def test_each_is_listed_once_and_those_of_earlier_runs_count(tmp_path: Path) -> None:
    first = BadRecords(3)
    first.add(bad(1))
    assert not (tmp_path / "run").exists()  # until the run's folder is known
    first.open(tmp_path / "run")
    first.add(bad(2))
    first.add(bad(1), bad(2))
    assert listed(tmp_path / "run") == ["t line 1", "t line 2"]
    again = BadRecords(3)
    again.open(tmp_path / "run")
    again.add(bad(2))
    again.add(bad(3))
    with pytest.raises(
        RecordError, match=r"^4 bad records, --max_bad_records allows 3; .*bad_records\.jsonl lists them"
    ):
        again.add(bad(4))
    assert listed(tmp_path / "run") == [f"t line {number}" for number in (1, 2, 3, 4)]


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path: Path) -> None:
    known = BadRecords(9)
    known.open(tmp_path)
    known.add(bad(1), bad(2))
    text = (tmp_path / "bad_records.jsonl").read_text()
    (tmp_path / "bad_records.jsonl").write_text(text[:-9])
    known = BadRecords(9)
    known.open(tmp_path)
    known.add(bad(3))
    lines = (tmp_path / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"] for line in (lines[0], lines[2])] == ["t line 1", "t line 3"]
    assert text.splitlines()[1].startswith(lines[1])


def listing(folder: Path, process: int) -> None:
    known = BadRecords(99)
    known.open(folder)
    for number in range(30):
        known.add(bad(number), bad(100 + process))


def test_processes_share_one_list(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=listing, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(listed(tmp_path)) == sorted(f"t line {number}" for number in [*range(30), *range(100, 104)])


def test_no_limit_writes_no_file(tmp_path: Path) -> None:
    known = BadRecords(0)
    known.open(tmp_path)
    with pytest.raises(RecordError, match=r"^t line 1: is bad$"):
        known.add(bad(1))
    assert list(tmp_path.iterdir()) == []


# While training


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight records; 2 and 3 have a truncated image, 5 a region outside its image, 7 none at all."""
    folder = tmp_path_factory.mktemp("images")
    rows = [record(n, image=f"{n}.png", regions=[[50, 2, 60, 15] if n == 5 else [1, 2, 30, 15]]) for n in range(8)]
    for number in range(7):
        Image.new("RGB", (40, 20), (30 * number, 0, 0)).save(folder / f"{number}.png")
    for number in (2, 3):
        content = (folder / f"{number}.png").read_bytes()
        (folder / f"{number}.png").write_bytes(content[:-30])
    write(folder, "\n".join(map(json.dumps, rows)), "train.json")
    return folder


@pytest.fixture
def dataset_of(llava_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["v1"])
    monkeypatch.setattr(llava_train, "tokenizer_image_token", tokenizer_region_token)
    return partial(make_dataset, llava_checkpoint)


def shades(dataset: Any) -> list[int]:
    """Which image each item has."""
    mean, deviation = (dataset.data_args.image_processor.image_mean[0], dataset.data_args.image_processor.image_std[0])
    return [round(float(dataset[n]["image"][0, 14, 14] * deviation + mean) * 255 / 30) for n in range(len(dataset))]


def test_what_cannot_be_used_is_replaced(dataset_of: Any, images: Path, tmp_path: Path) -> None:
    dataset = dataset_of(images / "train.json", max_bad_records=4)
    dataset.bad_records.open(tmp_path)
    for _ in range(2):  # two epochs
        assert shades(dataset) == [0, 1, 4, 4, 4, 6, 6, 0]
    assert listed(tmp_path) == [f"train.json line {line} (id '{line - 1}')" for line in (8, 3, 4, 6)]
    problems = (tmp_path / "bad_records.jsonl").read_text()
    assert all(
        word in problems
        for word in (
            "not in the image folder",
            "cannot read its image",
            "region 0: box [50.0, 2.0, 60.0, 15.0] lies outside its image",
        )
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_end_the_run_with_the_list(dataset_of: Any, images: Path, tmp_path: Path, workers: int) -> None:
    """Also out of a data worker, where torch makes the error anew from its text: no list of problems."""
    dataset = dataset_of(images / "train.json", max_bad_records=3)
    dataset.bad_records.open(tmp_path)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
    with pytest.raises(
        RecordError, match=r"4 bad records, --max_bad_records allows 3(.|\n)*line 4 \(id '3'\): cannot read"
    ):
        list(loader)
    assert len(listed(tmp_path)) == 4


def test_without_the_option_the_first_one_ends_the_run(dataset_of: Any, images: Path) -> None:
    rows = [json.loads(line) for line in (images / "train.json").read_text().splitlines()[:7]]
    dataset = dataset_of(write(images, "\n".join(map(json.dumps, rows)), "seven.json"))
    for number in (2, 5):
        with pytest.raises(RegionError, match=rf"seven\.json line {number + 1} "):
            dataset[number]


@pytest.mark.slow
def test_a_run_replaces_lists_finishes_and_resumes_alike(
    llava_checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through LLaVA's own train(), with data workers."""
    options = {"stage": "align", "max_bad_records": 4, "dataloader_num_workers": 2, "num_train_epochs": 2}
    saving = {"save_strategy": "steps", "save_steps": 2}
    arguments = flags(llava_checkpoint, images / "train.json", tmp_path, **options, **saving)
    trainer = run(monkeypatch, arguments)
    assert trainer.state.global_step == 4
    problems = (tmp_path / "bad_records.jsonl").read_text()
    assert sorted(listed(tmp_path)) == [f"train.json line {line} (id '{line - 1}')" for line in (3, 4, 6, 8)]
    finished = load_file(tmp_path / "region_modules.safetensors")
    shutil.rmtree(tmp_path / "checkpoint-4")
    (tmp_path / "region_modules.safetensors").unlink()
    assert run(monkeypatch, arguments).state.global_step == 4
    assert (tmp_path / "bad_records.jsonl").read_text() == problems
    resumed = load_file(tmp_path / "region_modules.safetensors")
    assert all(torch.equal(resumed[key], value) for key, value in finished.items())


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([0, 2, 9, 18], "the tower's 28x28 view crops"),
        ({"scribble": [[15, 5], [25, 9]]}, "takes box, this is a scribble"),
    ],
)
def test_what_would_end_a_step_is_replaced(dataset_of: Any, folder: Path, region: Any, message: str) -> None:
    """Seen only by the encoder, it ended a run in the middle, and named its place in the batch."""
    rows = [record(0, regions=[region]), record(1, regions=[[15, 2, 25, 15]])]
    path = write(folder, "\n".join(map(json.dumps, rows)), "t.jsonl")
    dataset = dataset_of(path, image_aspect_ratio="square", max_bad_records=1)
    encoder = pvit_ext.build_region_encoder(RegionConfig("test_boxes", encoder_options={"layers": [1]}))
    encoder.region_kinds = {"box"}
    dataset.region_processor = RegionProcessor(encoder)
    dataset.bad_records.open(folder / "run")
    assert [dataset[number]["regions"][0].points[0] for number in (0, 1)] == [(15, 2)] * 2
    assert listed(folder / "run") == ["t.jsonl line 1 (id '0')"]
    assert message in (folder / "run" / "bad_records.jsonl").read_text()
