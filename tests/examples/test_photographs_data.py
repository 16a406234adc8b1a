"""The real experiment's data: parts that share no photograph, and conversations drawn as they say."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from examples.photographs import data
from examples.photographs.__main__ import OWN_DATA
from examples.photographs.alone import alone
from examples.photographs.fair import measure_several_kinds
from examples.photographs.sources import write_parts

Parts = dict[str, list[data.Photograph]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(OWN_DATA, folder)
    data.hold_out(folder / "train.jsonl", folder)
    return {name: data.read_photographs(folder / f"{name}.jsonl") for name in ("train", "val", "fit", "dev")}


def names(photographs: list[data.Photograph]) -> set[str]:
    return {one.image.rpartition("/")[2].split(".rf.")[0] for one in photographs}


def test_the_parts_share_no_photograph(parts: Parts) -> None:
    assert not names(parts["train"]) & names(parts["val"])
    assert not names(parts["fit"]) & names(parts["dev"])
    assert names(parts["fit"]) | names(parts["dev"]) == names(parts["train"])
    assert len(parts["val"]) == 58
    assert sum(len(one.boxes) for one in parts["val"]) == 386


def test_a_kind_with_few_boxes_is_left_out(parts: Parts) -> None:
    kinds = data.usual_kinds(parts["train"])
    assert len(kinds) == 12
    assert "bishop" not in kinds
    assert "white rook" in kinds
    kept = data.only(parts["train"], kinds)
    assert {kind for one in kept for kind in one.kinds} == set(kinds)
    assert sum(len(one.boxes) for one in kept) == sum(len(one.boxes) for one in parts["train"]) - 1


def test_conversations_ask_about_one_to_three_regions_and_answer_with_their_kinds(parts: Parts) -> None:
    wording = data.Wording("chess piece", "white rook")
    truth = {(one.image, box): kind for one in parts["train"] for box, kind in zip(one.boxes, one.kinds, strict=True)}
    records = list(data.region_records(parts["train"], wording, 300, 0, 0.7))
    assert {len(record["regions"]) for record in records} == {1, 2, 3}
    for record in records:
        turns = record["conversations"]
        assert turns[0]["value"] == "<image>\nWhich chess piece is in <region>? For example: white rook."
        assert sum(turn["value"].count("<region>") for turn in turns) == len(record["regions"])
        assert len({tuple(box) for box in record["regions"]}) == len(record["regions"]), "a region twice"
        for box, answer in zip(record["regions"], turns[1::2], strict=True):
            assert truth[record["image"], tuple(box)] == answer["value"]
    assert records == list(data.region_records(parts["train"], wording, 300, 0, 0.7))
    assert records != list(data.region_records(parts["train"], wording, 300, 1, 0.7))


@pytest.mark.parametrize(("evenness", "least", "most"), [(0.0, 3.0, 9.0), (1.0, 1.0, 1.6)])
def test_evenness_says_how_often_rare_kinds_come(parts: Parts, evenness: float, least: float, most: float) -> None:
    """In the data there are seven pawns of a colour to one queen."""
    kinds = data.usual_kinds(parts["train"])
    records = data.region_records(data.only(parts["train"], kinds), data.Wording("piece", "x"), 3000, 0, evenness)
    counts = Counter(turn["value"] for record in records for turn in record["conversations"][1::2])
    assert set(counts) == set(kinds)
    assert least < counts["black pawn"] / counts["black queen"] < most


def test_an_arm_without_regions_gets_the_same_conversations(parts: Parts) -> None:
    (record,) = data.region_records(parts["val"], data.Wording("piece", "x"), 1, 3, 0.7)
    blind = data.without_regions(record)
    assert "regions" not in blind
    assert "<region>" not in json.dumps(blind)
    assert "is in the region?" in blind["conversations"][0]["value"]
    assert [turn["value"] for turn in blind["conversations"][1::2]] == [
        turn["value"] for turn in record["conversations"][1::2]
    ]


def test_a_folder_in_no_known_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"none of data\.yaml, .* and no Annotations/: --data takes a folder in YO"
    ):
        write_parts(tmp_path, tmp_path)


def test_a_data_set_in_pascal_vocs_layout_is_split(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{number}.jpg")
        box = "<xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>25</ymax>"
        (root / "Annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><size><width>40</width><height>30</height></size>"
            f"<object><name>red_cell</name><bndbox>{box}</bndbox></object></annotation>"
        )
    write_parts(root, tmp_path)
    train, val = (data.read_photographs(tmp_path / f"{name}.jsonl") for name in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert {one.kinds for one in (*train, *val)} == {("red cell",)}
    assert (root / val[0].image).is_file()
    written = (tmp_path / "val.jsonl").stat().st_mtime_ns
    write_parts(root, tmp_path)
    assert (tmp_path / "val.jsonl").stat().st_mtime_ns == written, "what is there stays"


def test_photographs_of_one_kind_do_not_count_among_those_of_several(tmp_path: Path) -> None:
    box = (0.0, 0.0, 9.0, 9.0)
    asked = [
        data.Photograph("a.jpg", (box,) * 3, ("cat", "dog", "cat")),
        data.Photograph("b.jpg", (box,) * 2, ("cat", "cat")),
    ]
    lines = [{"id": f"{number}.0", "answer": text} for number, text in enumerate(["Cat.", "cat", "fox", "dog", "dog"])]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = measure_several_kinds(asked, tmp_path / "predictions.jsonl")
    assert found == {"samples": 3, "accuracy": pytest.approx(1 / 3), "balanced accuracy": 0.25}
    assert measure_several_kinds(asked[1:], tmp_path / "predictions.jsonl") == {"samples": 0}


def test_a_process_that_waits_finds_its_turn_though_the_folder_was_removed(tmp_path: Path) -> None:
    """``--fresh`` of another process removes the file that both lock."""
    folder, turns = tmp_path / "shared", list[str]()

    def wait() -> None:
        with alone(folder):
            turns.append("second")

    with alone(folder):
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        time.sleep(0.1)
        shutil.rmtree(folder)
    waiting.join(timeout=5)
    assert turns == ["second"]
