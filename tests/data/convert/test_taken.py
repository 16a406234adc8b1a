"""Images that are found by the last part of their name: told, and never one for two names of the source."""

import json

import pytest
from PIL import Image

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.notes import GUESSED, Notes
from pvit_ext.data.convert.output import Output
from pvit_ext.data.convert.report import Report
from tests.data.convert.truth import converted, read, reasons


def _images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(folder / name)
    return folder


def _coco(tmp_path, *names):
    images = [{"id": number, "file_name": name, "width": 64, "height": 48} for number, name in enumerate(names)]
    boxes = [{"id": one["id"], "image_id": one["id"], "category_id": 1, "bbox": [5, 5, 9, 9]} for one in images]
    source = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "coco.json").write_text(json.dumps(source))
    return tmp_path / "coco.json"


@pytest.mark.parametrize(
    ("asked", "there", "taken"),
    [
        (("train/cam1/a.jpg", "train/cam2/a.jpg"), ("a.jpg",), "a.jpg"),
        (("train/cam1/a.jpg", "train/cam2/a.jpg"), ("other/a.jpg",), "other/a.jpg"),
        (("train/cam1/a.jpg", "train/cam2/a.jpg"), ("train/cam1/a.jpg",), "train/cam1/a.jpg"),
        (("a.jpg", "cam1/a.jpg", "cam2/a.jpg"), ("a.jpg",), "a.jpg"),
    ],
)
def test_one_image_is_not_taken_for_two_names(tmp_path, asked, there, taken):
    folder = _images(tmp_path / "images", *there)
    for names in (asked, asked[::-1]):
        with pytest.raises(
            SourceError, match=rf"^{taken} would be the image of both \S+ and (.|\n)*or take the entries"
        ):
            converted(tmp_path, "coco", _coco(tmp_path, *names), folder)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["coco.json", "images"]


def test_an_image_of_a_longer_name_is_taken_and_told(tmp_path):
    folder = _images(tmp_path / "images", "a.jpg", "deep/b.jpg", "c.jpg")
    records, report = converted(
        tmp_path, "coco", _coco(tmp_path, "x/train/a.jpg", "train/a.jpg", "b.jpg", "c.jpg"), folder
    )
    assert [record["image"] for record in records] == ["a.jpg", "a.jpg", "deep/b.jpg", "c.jpg"]
    assert report.counts[GUESSED] == 2
    assert (
        "images: 1 found by the last part of the name alone, such as x/train/a.jpg: it is taken to be a.jpg"
        in report.remarks
    )


def test_one_photograph_of_coco_may_have_several_names(tmp_path):
    folder = _images(tmp_path / "images", "val2017/000000000139.jpg")
    source = _coco(tmp_path, "coco/train2017/000000000139.jpg", "coco/images/000000000139.jpg", "000000000139.jpg")
    assert len(converted(tmp_path, "coco", source, folder)[0]) == 3


def test_images_under_their_whole_names_are_not_spoken_of(tmp_path):
    folder = _images(tmp_path / "images", "cam1/a.jpg", "cam2/a.jpg")
    records, report = converted(tmp_path, "coco", _coco(tmp_path, "cam1/a.jpg", "cam2\\a.jpg"), folder)
    assert [record["image"] for record in records] == ["cam1/a.jpg", "cam2/a.jpg"]
    assert GUESSED not in report.counts
    assert not report.remarks


def test_files_of_one_name_are_told_by_their_folders(tmp_path):
    folder = _images(tmp_path / "images", "set/cam1/a.jpg", "set/cam2/a.jpg")
    records, report = converted(tmp_path, "coco", _coco(tmp_path, "cam2/a.jpg", "x/a.jpg", "cam1/a.jpg"), folder)
    assert [record["image"] for record in records] == ["set/cam2/a.jpg", "set/cam1/a.jpg"]
    assert (report.dropped, report.counts[GUESSED]) == ({"no_image": 1}, 0)


def test_a_part_of_a_name_tells_no_files_apart(tmp_path):
    row = {"id": 1, "image": "one/images/a.jpg", "image_h": 48, "image_w": 64, "box_x1y1x2y2": [[[5, 5, 15, 15]], []]}
    texts = ["What is it <bbox_location0>?", "A dog."]
    turns = [{"from": speaker, "value": text} for speaker, text in zip(("human", "gpt"), texts, strict=True)]
    source = tmp_path / "ferret.json"
    source.write_text(json.dumps([{**row, "conversations": turns, "masks": [[None], []]}]))
    folder = _images(tmp_path / "images", "two/images/a.jpg", "three/a.jpg")
    assert reasons(read("ferret", source, folder)[1]) == {"no_image": 1}


def test_names_of_an_interrupted_run_count(tmp_path):
    notes, others = Notes(), Notes()
    notes.take_image("a.jpg", "cam1/a.jpg")
    others.take_image("a.jpg", "cam2/a.jpg")
    with Output(tmp_path / "out.jsonl", "key", Report("coco", tmp_path)) as first:
        first.add(b"", notes)
        first._save()
    with Output(tmp_path / "out.jsonl", "key", Report("coco", tmp_path)) as second:
        assert second.batches == 1
        second.add(b"", others)
        with pytest.raises(SourceError, match="both"):
            second.check_images()


@pytest.mark.parametrize("base", ["", "deep/er/"])
def test_splits_of_yolo_with_the_same_names(tmp_path, base):
    for split in ("train", "valid"):
        _images(tmp_path / f"set/{split}/images/{base}", "a.jpg")
        (tmp_path / f"set/{split}/labels/{base}").mkdir(parents=True)
        (tmp_path / f"set/{split}/labels/{base}/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    yaml = tmp_path / "set/data.yaml"
    yaml.write_text("train: train/images\nval: valid/images\nnames: [dog]\n")
    folder = _images(tmp_path / "images", "a.jpg")
    with pytest.raises(SourceError, match=rf"a\.jpg would be the image of both \S+/images/{base}a\.jpg and"):
        converted(tmp_path, "yolo", yaml, folder)
    records, _ = converted(tmp_path, "yolo", yaml, folder, settings={"split": "train"})
    assert [record["image"] for record in records] == ["a.jpg"]


def test_links_in_the_folder_are_inside(tmp_path):
    for split in ("train", "valid"):
        _images(tmp_path / "store", f"{split}.jpg")
        for kind in ("images", "labels"):
            (tmp_path / f"set/{split}/{kind}/deep/er").mkdir(parents=True)
        (tmp_path / f"set/{split}/labels/deep/er/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (tmp_path / f"set/{split}/images/deep/er/a.jpg").symlink_to(tmp_path / f"store/{split}.jpg")
    (tmp_path / "set/data.yaml").write_text("train: train/images\nval: valid/images\nnames: [dog]\n")
    records, report = converted(tmp_path, "yolo", tmp_path / "set/data.yaml", tmp_path / "set")
    assert [record["image"] for record in records] == [f"{one}/images/deep/er/a.jpg" for one in ("train", "valid")]
    assert GUESSED not in report.counts
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(converted(tmp_path, "yolo", tmp_path / "set/data.yaml", tmp_path / "link")[0]) == 2


def _voc(tmp_path, name, filename, *there):
    box = "<xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax>"
    named = f"<filename>{filename}</filename>" if filename else ""
    text = f"<annotation>{named}<object><name>dog</name><bndbox>{box}</bndbox></object></annotation>"
    (tmp_path / "voc/Annotations").mkdir(parents=True, exist_ok=True)
    (tmp_path / f"voc/Annotations/{name}.xml").write_text(text)
    return read("voc", tmp_path / "voc", _images(tmp_path / "voc", *there))


@pytest.mark.parametrize(
    ("filename", "there"),
    [("a.jpg", "SegmentationClass/a.png"), ("", "SegmentationObject/a.png"), ("a.jpg", "masks/a.png")],
)
def test_segments_of_voc_are_no_image(tmp_path, filename, there):
    images, notes = _voc(tmp_path, "a", filename, there)
    assert not images
    assert reasons(notes) == {"no_image": 1}


@pytest.mark.parametrize(
    ("filename", "there"),
    [
        ("a.jpg", "x/a.jpg"),
        ("a.png", "x/a.png"),
        ("", "x/a.png"),
        ("b.jpg", "b.jpg"),
        ("a.jpg", "a.png"),
        ("a.jpg", "x/a.bmp"),
        ("a", "x/a.png"),
        ("shot.v2", "x/a.png"),
    ],
)
def test_images_of_voc_that_are(tmp_path, filename, there):
    assert list(_voc(tmp_path, "a", filename, there, "SegmentationClass/a.png")[0]) == [there]


def test_addresses_that_end_alike(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [
        {"id": number, "key": f"k{number}", "url": f"https://{host}/img.jpg?x=1", "caption": "a dog",
         "noun_chunks": [[0.0, 5.0, 0.1, 0.1, 0.5, 0.5, 0.9]], "ref_exps": [[0.0, 5.0, 0.1, 0.1, 0.5, 0.5, 0.9]]}
        for number, host in enumerate(["a.org", "b.org"])
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "grit.parquet")
    with pytest.raises(SourceError, match=r"both a\.org/img\.jpg and b\.org/img\.jpg"):
        converted(tmp_path, "kosmos_grit", tmp_path / "grit.parquet", _images(tmp_path / "images", "img.jpg"))
    named = [{key: value for key, value in row.items() if key not in ("id", "key")} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist([one | {"width": 64, "height": 48} for one in named]), tmp_path / "b")
    records, _ = converted(tmp_path, "kosmos_grit", tmp_path / "b", tmp_path, open_images=False)
    assert [record["image"] for record in records] == ["img.jpg", "img.jpg"]
    folder = _images(tmp_path / "images", "k0.jpg", "k1.jpg")
    assert len(converted(tmp_path, "kosmos_grit", tmp_path / "grit.parquet", folder)[0]) == 2
