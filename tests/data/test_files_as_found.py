"""Files as people have them: encodings, layouts and names of files; and files that are no list of records at all."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext.data.check import validate
from pvit_ext.data.json_records import read_json_records
from pvit_ext.data.records import RecordError, load_records
from tests.data.records import asked, record, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize("read", [load_records, validate])
def test_an_image_folder_that_is_not_there_is_one_problem(folder: Path, read: Any) -> None:
    path = write(folder, [record(1), record(2)])
    with pytest.raises(OSError, match=r"the image folder .*nowhere is not there, or is no folder"):
        read(path, folder / "nowhere")


# Encodings and layouts

ROWS = [record(1, text="é\u2028世"), record(2, text="\U0001f600"), record(3)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("form", ["lines", "array", "indented"])
def test_encodings_and_line_ends(folder: Path, encoding: str, end: str, form: str) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    text = end.join(lines) if form == "lines" else f"[{end}{f',{end}'.join(lines)}{end}]"
    if form == "indented":
        text = json.dumps(ROWS, ensure_ascii=False, indent=2).replace("\n", end)
    (folder / "t.json").write_bytes(text.encode(encoding))
    assert validate(folder / "t.json", folder) == []
    read = load_records(folder / "t.json", folder)
    assert [one.data["text"] for one in read[:2]] == [row["text"] for row in ROWS[:2]]
    starts = [number for number, line in enumerate(text.split("\n"), 1) if '"id"' in line]
    assert [int(one.location.split()[2]) for one in read] == [
        line - (form == "indented") * end.count("\n") for line in starts
    ]


def test_a_file_that_is_not_what_its_mark_says(folder: Path) -> None:
    (folder / "t.json").write_bytes(b"\xff\xfe[\x00\x00\xd8")
    assert "not UTF-16-LE" in validate(folder / "t.json")[0]


@pytest.mark.parametrize("padding", [0, 1, 7, 1 << 20, 3 << 20])
def test_records_of_any_length_in_an_array(folder: Path, padding: int) -> None:
    """The array is read in pieces; characters of several bytes fall on their borders."""
    rows = [record(number, text="é" * padding) for number in range(3)]
    path = write(folder, "[" + ", \n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]")
    raw = path.read_bytes()
    for found, row in zip(read_json_records(path), rows, strict=True):
        assert json.loads(raw[found.start : found.end]) == found.value == row
    assert [one.data["id"] for one in load_records(path, folder)] == ["0", "1", "2"]


# Names


NAMES = ["a:b.png", "C:c.png", "back\\slash.png", "blank and 'quote'.png", "100%.png", "é.png", "#?&.png", "-a.png"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_legal_here(folder: Path, name: str) -> None:
    Image.new("RGB", (40, 20)).save(folder / name)
    path = write(folder, [record(image=name)])
    assert validate(path, folder, check_images=True) == []
    assert load_records(path, folder)[0].image_files == [f"{folder}/{name}"]


def test_windows_separators(folder: Path) -> None:
    (folder / "coco").mkdir()
    Image.new("RGB", (40, 20)).save(folder / "coco" / "7.png")
    path = write(folder, [record(image="coco\\7.png")])
    assert validate(path, folder, check_images=True) == []
    assert load_records(path, folder)[0].image_files == [f"{folder}/coco/7.png"]


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_both_forms_of_an_accent(folder: Path, written: str, stored: str) -> None:
    Image.new("RGB", (40, 20)).save(folder / unicodedata.normalize(stored, "naïve café.png"))  # type: ignore[arg-type]
    name = unicodedata.normalize(written, "naïve café.png")  # type: ignore[arg-type]
    mask = {"mask": unicodedata.normalize(written, "naïve café.png")}  # type: ignore[arg-type]
    path = write(folder, [record(image=name), record(regions=[mask])])
    assert validate(path, folder) == []
    assert validate(path, folder, check_images=True)[0].count("3 channels") == 1  # the mask is found, and read


@pytest.mark.parametrize(
    "name", ["C:\\a.png", "d:/a.png", "\\\\server\\a.png", "..\\a.png", "x\\..\\..\\a.png", "/a.png"]
)
def test_names_that_lead_out_of_the_folder(folder: Path, name: str) -> None:
    for given in (folder, None):
        assert "must stay inside" in validate(write(folder, [record(image=name)]), given)[0]


# No list of records


def coco() -> dict[str, Any]:
    return {"images": [{"id": n} for n in range(9)], "annotations": [{"bbox": [1, 2, 3, 4]}] * 9, "categories": []}


NO_LISTS = {
    "COCO, indented": (json.dumps(coco(), indent=2), "COCO's annotations"),
    "COCO, on one line": (json.dumps(coco()), "COCO's annotations"),
    "COCO's results": (json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4]}] * 4404), "COCO's annotations or results"),
    "a list of strings": (json.dumps(["a"] * 50), "a list of str"),
    "a list of lists": (json.dumps([[1]] * 50, indent=1), "a list of list"),
    "other objects": ("\n".join(['{"question": "a", "answer": "b"}'] * 20), "objects with the keys question, answer"),
    "CSV": ("id,image,text\n" + "1,a.png,hello\n" * 4403, "a table (CSV)"),
    "TSV": ("id\timage\n" + "1\ta.png\n" * 9, "a table (TSV)"),
    "XML": ("<annotation>\n<object/>\n</annotation>", "XML, as of Pascal VOC"),
    "YOLO": ("0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.2 0.2\n", "a label file of YOLO"),
    "text": ("hello\nthere\n", "text that is no JSON"),
    "one record, indented": (json.dumps(record(), indent=2), "one record over several lines; put it into [ ]"),
    "records under a key": (json.dumps({"info": 1, "data": [record()]}, indent=1), "under 'data'; write that list"),
    "a map": (json.dumps({"a": record(), "b": record()}, indent=1), "a map from names to records"),
    "another object": (json.dumps({"a": [1], "b": 2}, indent=1), "one JSON object with the keys a, b"),
    "Label Studio": (json.dumps([{"id": 1, "data": {}, "annotations": []}] * 3), "an export of Label Studio"),
    "zip": ("PK\x03\x04\n\n\x00x\nx\n", "a zip archive"),
    "broken": ('{"images": [\n1,\n2\n', "broken JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_LISTS)
def test_a_file_that_is_no_list_of_records_is_one_problem(folder: Path, name: str) -> None:
    text, expected = NO_LISTS[name]
    path = write(folder, text)
    (problem,) = validate(path, folder, check_images=True)
    assert problem.startswith("train.json line 1: no list of records; it seems to be ")
    assert expected in problem
    assert len(problem) < 400
    with pytest.raises(RecordError, match="no list of records"):
        load_records(path, folder)


def test_one_record_among_others_keeps_their_lines(folder: Path) -> None:
    path = write(folder, "\n".join([*["{}"] * 3, json.dumps(record())]), "t.jsonl")
    assert [problem.split(":")[0] for problem in validate(path, folder)] == [f"t.jsonl line {n}" for n in (1, 2, 3)]


# Several images


def test_several_images_in_a_record(folder: Path) -> None:
    Image.new("RGB", (60, 50)).save(folder / "b.png")
    turns = asked("<image>\n<image>\nIs <region> also <region>?")
    row = record(
        image=["a.png", "b.png"], conversations=turns, regions=[[1, 2, 30, 15], {"box": [1, 2, 55, 45], "image": 1}]
    )
    path = write(folder, [row])
    assert validate(path, folder, check_images=True) == []
    (read,) = load_records(path, folder)
    assert read.image_files == [f"{folder}/a.png", f"{folder}/b.png"]
    assert [region.points[1] for region in read.resolve([(40, 20), (60, 50)])] == [(30, 15), (55, 45)]
    row["regions"][1]["image"] = 0
    assert "outside" not in validate(write(folder, [row]), folder, check_images=True)  # clipped on the first
    row["regions"][1] = {"box": [45, 2, 55, 45], "image": 0}
    assert "outside its image" in validate(write(folder, [row]), folder, check_images=True)[0]
    row["regions"][1]["image"] = 2
    assert "lies on image 2, but the record has 2" in validate(write(folder, [row]), folder)[0]
    path = write(folder, [row | {"regions": row["regions"][:1] * 2}])
    assert load_records(path).summary.images == 2


# Decoding


def test_truncated_images_are_found_by_decoding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pvit_ext import cli

    Image.effect_noise((400, 200), 90).convert("RGB").save(folder / "b.jpg")
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-3000])
    rows = [record(1), record(2, image="b.jpg"), record(3, regions=[[99, 0, 100, 9]])]
    path = write(folder, "\n".join(map(json.dumps, rows)), "t.jsonl")
    command = ["data", "check", str(path), "--image-folder", str(folder)]
    assert cli.main(command) == 1
    assert ": 1 problem(s)" in capsys.readouterr().out
    assert cli.main([*command, "--decode"]) == 1
    shown = capsys.readouterr()
    assert "t.jsonl line 2 (id '2'): cannot read" in shown.out
    assert "truncated" in shown.out
    assert "t.jsonl line 3" in shown.out.splitlines()[1]
    assert "images: 100%" in shown.err
    assert cli.main([*command, "--decode", "--no-images"]) == 2


def test_names_do_not_depend_on_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.sep)
    assert validate(write(folder, [record()]), folder, check_images=True) == []
