"""Visual Genome, RefCOCO and Flickr30k Entities: regions with words."""

import json
import shutil

import pytest

from pvit_ext.data.convert.annotation import Relation
from pvit_ext.data.convert.base import FORMATS, ReadOptions, SourceError
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.source_key import from_source
from pvit_ext.data.convert.spans import insert_regions, phrase_end
from tests.data.convert.truth import FIXTURES, converted, objects_of, read, reasons

VG = "visual_genome"


def _boxes(image):
    return {one.id: tuple(one.box) for one in image.objects}


def test_visual_genome_joins_its_files():
    images, notes = read("visual_genome", VG, VG)
    one, two, three = (images[name][0] for name in ("VG_100K/1.jpg", "VG_100K_2/2.jpg", "VG_100K/3.jpg"))
    truth = {box for scene in ("s1", "s2", "s3") for _, box in objects_of(scene)}
    assert {box for image in (one, two) for box in _boxes(image).values()} <= truth
    assert {item.id: item.attributes for item in one.objects if item.attributes} == {
        "11": ("brown", "lying"), "12": ("orange",), "13": ("red",),
    }  # fmt: skip
    places = {item.id: number for number, item in enumerate(one.objects)}
    assert one.relations == (
        Relation(places["11"], "next to", places["12"]),
        Relation(places["13"], "above", places["12"]),
    )
    assert [item.predicate for item in two.relations] == ["on", "behind"]
    captions = [text for item in one.objects for text in item.captions]
    assert captions == ["a brown dog lying down", "an orange ball", "Red sign that says stop"]
    assert _boxes(three)["region 150"] == (60, 20, 80, 38)
    assert _boxes(three)["region 151"] == (0, 0, 19, 9)
    assert reasons(notes) == {"duplicate": 1, "degenerate": 1, "incomplete": 1}


def test_visual_genome_questions_point_at_what_they_name():
    images, _ = read("visual_genome", VG, VG)
    one = images["VG_100K/1.jpg"][0]
    assert [(item.question, item.answer) for item in one.questions] == [
        ("What color is the dog <region>?", "Brown."),
        ("What is to the right of the dog <region>?", "A ball."),
    ]
    assert [one.objects[item.regions[0]].id for item in one.questions] == ["11", "11"]
    assert images["VG_100K_2/2.jpg"][0].questions[0].regions == ()


def test_parts_of_visual_genome(tmp_path):
    images, _ = read("visual_genome", VG, VG, parts="regions")
    assert all(item.captions and not item.label for same in images.values() for item in same[0].objects)
    images, _ = read("visual_genome", f"{VG}/relationships.json", VG)
    assert sum(len(same[0].relations) for same in images.values()) == 5  # boxes come from the relationships
    with pytest.raises(SourceError, match=r"holds no regions; it holds objects"):
        converted(tmp_path, "visual_genome", f"{VG}/objects.json", VG, settings={"parts": "regions"})


def test_visual_genome_damage_is_named(tmp_path):
    shutil.copytree(FIXTURES / VG, tmp_path / "vg", ignore=shutil.ignore_patterns("VG_*"))
    path = tmp_path / "vg/objects.json"
    path.write_text(path.read_text().replace('"x": 44', '"x": "44"'))
    with pytest.raises(SourceError, match=r"image 1 objects 1: x, y, w, h is a list of 4 finite numbers"):
        converted(tmp_path, "visual_genome", tmp_path / "vg", VG)
    path.write_text(path.read_text()[:-400])
    with pytest.raises(SourceError, match=r"objects\.json line 1: expected"):
        converted(tmp_path, "visual_genome", tmp_path / "vg", VG)


def test_refcoco():
    images, notes = read("refcoco", "refcoco/refcoco", "refcoco/images", split="val")
    ((image,),) = images.values()
    (one,) = image.objects
    assert (one.label, one.box, one.captions) == ("cup", (30, 40, 40, 52), ("yellow cup", "lower cup"))
    assert notes.counts["objects that no sentence refers to, left out"] == 3
    images, _ = read("refcoco", "refcoco/refcoco", "refcoco/images")
    texts = [text for same in images.values() for one in same[0].objects for text in one.captions]
    assert "The thing left of the ball." in texts


def test_refcocog_has_two_splits(tmp_path):
    with pytest.raises(SourceError, match=r"holds refs\(google\)\.p, refs\(umd\)\.p; say which with --set by="):
        converted(tmp_path, "refcoco", "refcoco/refcocog", "refcoco/images")
    records, _ = converted(
        tmp_path, "refcoco", "refcoco/refcocog", "refcoco/images", settings={"by": "umd", "split": "test"}
    )
    assert [turn["value"] for turn in records[0]["conversations"][1::2]] == [
        "a red sign that reads stop",
        "sign above the ball",
    ]
    with pytest.raises(SourceError, match=r"has no split 'testC'; it has test, val"):
        converted(tmp_path, "refcoco", "refcoco/refcocog", "refcoco/images", settings={"by": "umd", "split": "testC"})


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02", b"no pickle", b"\x80\x02}q\x00."])
def test_a_hostile_or_damaged_pickle_runs_nothing(tmp_path, content):
    shutil.copytree(FIXTURES / "refcoco/refcoco", tmp_path / "refcoco")
    path = tmp_path / "refcoco/refs(unc).p"
    path.write_bytes((FIXTURES / "refcoco/hostile/refs(unc).p").read_bytes() if content is None else content)
    expected = (
        "it wants to make .*getpid" if content is None else r"is no pickle, or damaged|holds no list of references"
    )
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "refcoco", tmp_path / "refcoco", "refcoco/images")


@pytest.mark.parametrize(("source", "settings"), [("jxu124", {"split": "val"}), ("lmms_lab", {})])
def test_refcoco_as_parquet(source, settings, tmp_path):
    images, notes = read("refcoco_parquet", f"refcoco/{source}", "refcoco/images", **settings)
    image = images["train2014/COCO_train2014_000000000102.jpg"][0]
    (one,) = image.objects
    assert (one.box, one.captions) == ((30, 40, 40, 52), ("yellow cup", "lower cup"))
    assert one.region["polygon"] == [[30, 40, 40, 40, 40, 52, 30, 52]]
    assert not notes.drops
    (path,) = (FIXTURES / "refcoco" / source).iterdir()
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"cut\.parquet is no Parquet file, or damaged"):
        converted(tmp_path, "refcoco_parquet", tmp_path / "cut.parquet", "refcoco/images")


def _row(**raw):
    return {
        "image_path": "train2014/COCO_train2014_000000000102.jpg",
        "bbox": [30, 40, 40, 52],
        "captions": ["yellow cup"],
        "raw_anns": json.dumps({"id": 5, **raw}),
    }


@pytest.mark.parametrize(
    ("raw", "region", "count"),
    [
        ({"iscrowd": "0"}, [30, 40, 40, 52], None),
        (
            {"segmentation": [[1, 1, 9, 1, 9, 9]]},
            [30, 40, 40, 52],
            "masks or outlines that do not fit their box, kept as boxes",
        ),
        ({"segmentation": [[1, 1, 9, 1]]}, [30, 40, 40, 52], "masks or outlines of no use, kept as boxes"),
        ({"segmentation": {"size": [64, 48], "counts": [1960, 12, 1100]}}, None, None),
    ],
)
def test_what_the_parquet_files_give_as_shapes(tmp_path, raw, region, count):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([_row(**raw)]), tmp_path / "rows.parquet")
    images, notes = read("refcoco_parquet", tmp_path / "rows.parquet", "refcoco/images")
    (((one,),),) = ([image.objects for image in found] for found in images.values())
    assert one.region == (region or {"mask": raw["segmentation"]})
    assert notes.counts[count] == 1 if count else not notes.counts


def test_flickr30k():
    images, notes = read("flickr30k", "flickr30k_entities", "flickr30k_entities")
    one, two, three = (images[f"flickr30k-images/{number}.jpg"][0] for number in (1001, 1002, 1003))
    assert sorted(item.box for item in one.objects) == sorted(box for _, box in objects_of("s1"))
    assert [item.box for item in two.objects] == [(6, 4, 26, 60), (30, 40, 40, 52), (34, 10, 44, 22), (0, 48, 48, 64)]
    assert [item.captions for item in two.objects] == [("A person", "Somebody"), (), (), ("a table",)]
    assert one.captions[0] == "A brown dog lies next to an orange ball ."
    (start, end, places), *_ = two.grounded[1].phrases[1:]
    assert (two.grounded[1].text[start:end], places) == ("two cups", (1, 2))
    assert len(three.grounded) == 4  # the fifth is listed as about another image
    assert reasons(notes) == {"incomplete": 1}
    assert notes.counts["chains without a box"] == 2
    images, _ = read("flickr30k", "flickr30k_entities", "flickr30k_entities", split="test")
    assert list(images) == ["flickr30k-images/1003.jpg"]


def test_lists_of_flickr30k_with_a_byte_order_mark_and_an_image_without_a_file(tmp_path):
    shutil.copytree(FIXTURES / "flickr30k_entities", tmp_path / "flickr")
    (tmp_path / "flickr/mine.txt").write_text("1003\n77\n", encoding="utf-8-sig")
    (tmp_path / "flickr/UNRELATED_CAPTIONS").write_text("1003 5\n", encoding="utf-16")
    reader = FORMATS.require("flickr30k")(tmp_path / "flickr", ReadOptions(ImageFolder(tmp_path), {"split": "mine"}))
    assert list(reader.units()) == ["1003"]
    assert reader.unrelated == {("1003", 5)}
    assert reader.remarks() == ["flickr30k: no XML file for 1 image of the split's list: 77"]


def test_grounded_sentences_are_kept(tmp_path):
    records, _ = converted(tmp_path, "flickr30k", "flickr30k_entities", "flickr30k_entities")
    images, _ = read("flickr30k", "flickr30k_entities", "flickr30k_entities")
    for record in records:
        if found := from_source(json.loads(json.dumps(record))):
            assert found == images[record["image"]][0]


def test_regions_into_texts():
    assert insert_regions("a dog and a ball", [(16, ["b"]), (5, ["a", "c"])]) == (
        "a dog <region>, <region> and a ball <region>",
        ["a", "c", "b"],
    )
    assert insert_regions("dogs", [(3, ["a"]), (4, [])]) == ("dog <region> s", ["a"])
    assert phrase_end("A hotdog, a DOG.", "dog") == 15
    assert phrase_end("A hotdog", "dog") is None
    assert phrase_end("dog", "") is None
