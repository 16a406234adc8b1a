"""``pvit-ext data split``: fractions are met, photographs stay together, nothing is lost."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pvit_ext import cli
from pvit_ext.data.held_out import HeldOut
from pvit_ext.data.records import Record
from pvit_ext.data.show.statistics import Statistics
from pvit_ext.data.split import PHOTOGRAPH, parse_parts, split_file
from pvit_ext.data.summary import Summary

PARTS = {"train": 0.8, "val": 0.2}


def write(path: Path, images: list[Any]) -> Path:
    records = [{"id": str(number), "image": image, "conversations": []} for number, image in enumerate(images)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.stem: [json.loads(line) for line in path.open()] for path in folder.glob("*.jsonl")}


def test_fractions_are_met_and_no_record_is_lost(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", [f"{number}.jpg" for number in range(500)])
    assert split_file(file, tmp_path / "out", PARTS) == {"train": (400, 400), "val": (100, 100)}
    parts = read(tmp_path / "out")
    assert sorted(int(one["id"]) for part in parts.values() for one in part) == list(range(500))
    assert [int(one["id"]) for one in parts["val"]] == sorted(int(one["id"]) for one in parts["val"])


def test_copies_of_a_photograph_stay_together(tmp_path: Path) -> None:
    images = [f"a/{number}_jpg.rf.{copy}ab.jpg" for number in range(60) for copy in range(3)]
    split_file(write(tmp_path / "all.jsonl", images), tmp_path / "out", PARTS)
    train, val = ({one["image"].split("_jpg")[0] for one in part} for part in read(tmp_path / "out").values())
    assert train
    assert val
    assert not train & val


def test_images_that_records_join_stay_together(tmp_path: Path) -> None:
    chain: list[Any] = [[f"{number}.jpg", f"{number + 1}.jpg"] for number in range(20)]
    rest = [f"other{number}.jpg" for number in range(40)]
    split_file(write(tmp_path / "all.jsonl", chain + rest + ["7.jpg"]), tmp_path / "out", {"a": 0.5, "b": 0.5})
    sides = {name for name, part in read(tmp_path / "out").items() for one in part if "other" not in str(one["image"])}
    assert len(sides) == 1


def test_the_order_of_records_changes_no_side_and_the_seed_does(tmp_path: Path) -> None:
    images = [f"{number}.jpg" for number in range(50)]
    for name, given, seed in (("one", images, 0), ("two", images[::-1], 0), ("three", images, 1)):
        split_file(write(tmp_path / f"{name}.jsonl", given), tmp_path / name, PARTS, seed)
    one, two, three = ({r["image"] for r in read(tmp_path / name)["val"]} for name in ("one", "two", "three"))
    assert one == two != three


def test_records_without_images_are_dealt_too(tmp_path: Path) -> None:
    found = split_file(write(tmp_path / "all.jsonl", [None] * 10), tmp_path / "out", PARTS)
    assert found == {"train": (8, 8), "val": (2, 2)}


@pytest.mark.parametrize("text", ["train=0.9", "a=0.5,a=0.5", "a=0.5,b=1.5", "=0.5,b=0.5", "../x=0.5,b=0.5", "a,b", ""])
def test_fractions_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--parts"):
        parse_parts(text)


def test_nothing_is_overwritten_or_half_written(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", ["a.jpg", "b.jpg"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "val.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match=r"val\.jsonl is there already"):
        split_file(file, tmp_path / "out", PARTS)
    with pytest.raises(ValueError, match="too few for 3 parts"):
        split_file(file, tmp_path / "new", {"a": 0.5, "b": 0.25, "c": 0.25})
    file.write_text(file.read_text() + '{"image": "c.jpg"')
    with pytest.raises(ValueError, match=r"line 3|all\.jsonl"):
        split_file(file, tmp_path / "new", PARTS)
    assert not list((tmp_path / "new").glob("*"))
    with pytest.raises(ValueError, match="no group"):
        split_file(file, tmp_path / "new", PARTS, photograph="abc")
    with pytest.raises(ValueError, match="is no regular expression"):
        split_file(file, tmp_path / "new", PARTS, photograph="(abc")


def test_by_the_command_line(tmp_path: Path, capsys: Any) -> None:
    file = write(tmp_path / "all.jsonl", [f"p{number // 2}-{number % 2}.jpg" for number in range(20)])
    words = ["data", "split", str(file), "--out", str(tmp_path / "out"), "--photograph", r"(p\d+)-", "--parts"]
    assert cli.main([*words, "train=0.5,val=0.5"]) == 0
    assert "train.jsonl: 10 records of 5 photographs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "a", "image": 7}', r"all\.jsonl line 2 \(id 'a'\): image is a text, or a list of texts, got 7"),
        ('{"image": ["a.jpg", null]}', r"all\.jsonl line 2: image is a text"),
        ('["a.jpg"]', r"all\.jsonl line 2: a record is a JSON object"),
        ('{"image": ', r"all\.jsonl line 2: not valid JSON"),
    ],
)
def test_a_line_without_a_usable_image_is_named(tmp_path: Path, line: str, expected: str) -> None:
    file = write(tmp_path / "all.jsonl", ["0.jpg"])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=expected):
        split_file(file, tmp_path / "out", PARTS)
    assert not list(tmp_path.glob("out/*"))


ALIASES = ["sub/ä.jpg", "./sub/ä.jpg", "sub//ä.jpg", "sub\\ä.jpg", unicodedata.normalize("NFD", "sub/ä.jpg")]
"""Names under which training reads one file."""


@pytest.mark.parametrize("pattern", [PHOTOGRAPH, r"(sub.*)\.jpg"])
def test_names_of_one_file_stay_together(tmp_path: Path, pattern: str) -> None:
    rest = [f"{number}.jpg" for number in range(30)]
    for seed in range(6):
        out = tmp_path / str(seed)
        split_file(write(tmp_path / "all.jsonl", [*ALIASES, *rest]), out, {"a": 0.5, "b": 0.5}, seed, pattern)
        assert len({name for name, part in read(out).items() for one in part if one["image"] in ALIASES}) == 1


def test_names_of_one_file_are_one_image() -> None:
    summary, statistics = Summary(), Statistics()
    for number, name in enumerate(ALIASES):
        data = {"image": name, "conversations": []}
        summary.add([name], [])
        statistics.add(Record(data, (), f"line {number}"))
    assert summary.images == statistics.images == 1


@pytest.mark.parametrize("name", ALIASES[1:])
def test_a_photograph_that_evaluation_needs_is_known_by_any_name_of_its_file(name: str) -> None:
    assert HeldOut({"the file sub/ä.jpg": "pope.json"}).reason([name])
    assert HeldOut({"visual genome 7": "x"}, coco_val=True).reason(["VG_100K\\7.jpg"])
    assert HeldOut(coco_val=True).reason(["coco\\val2017\\7.jpg"])
