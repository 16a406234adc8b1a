"""Captions with phrases or boxes: GPT4RoI's, Kosmos-2's GRIT, GLaMM's; and Describe Anything's pickles."""

import pickle
import shutil
import tarfile

import pytest
from pycocotools import mask as coco_mask

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.detect import describe, detect
from tests.data.convert.truth import FIXTURES, box_of, changed, converted, put, read, reasons, texts_of

TRAIN, GRANDF, REFS = "gpt4roi/VG/train.json", "glamm/GranDf_HA_GCG_train.json", "glamm/RefCOCOg_GCG_train.json"


def test_gpt4roi_leaves_short_captions_and_thin_boxes_out():
    images, notes = read("gpt4roi", TRAIN, "visual_genome")
    captions = {name: [one.captions for one in image.objects] for name, (image,) in images.items()}
    assert captions["VG_100K/1.jpg"] == [("a brown dog lying down",)]
    assert captions["VG_100K_2/2.jpg"] == []
    assert captions["VG_100K/3.jpg"] == [("a white boat",)]
    assert not any(one.label for (image,) in images.values() for one in image.objects)
    assert notes.counts["captions of fewer than 3 words left out"] == 1
    assert reasons(notes) == {"degenerate": 1}


def test_gpt4roi_s_test_file_has_an_image_a_phrase(tmp_path):
    records, _ = converted(
        tmp_path, "auto", "gpt4roi/VG/test_caption.json", "visual_genome", settings={"min_words": "1"}
    )
    assert [texts_of(one)[1] for one in records] == ["a brown dog lying down", "brown dog on grass", "yellow cup"]
    with pytest.raises(SourceError, match="min_words is a whole number, got 'few'"):
        converted(tmp_path, "gpt4roi", TRAIN, "visual_genome", settings={"min_words": "few"})


def _web(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    for number in (1, 2):
        shutil.copy(FIXTURES / f"coco/val2017/00000000010{number}.jpg", folder / f"{number}.jpg")
    return folder


def test_kosmos_grit(tmp_path):
    pytest.importorskip("pyarrow")
    records, _ = converted(tmp_path, "kosmos_grit", "kosmos_grit", _web(tmp_path))
    assert texts_of(records[0])[1::2] == ["A brown dog", "an orange ball"]
    assert records[0]["regions"] == [box_of("s1", "dog"), box_of("s1", "ball")]
    assert records[1]["source"]["grounded"] == [{"text": "Two cups.", "phrases": [[0, 8, [0, 1]]]}]
    assert texts_of(records[1])[1] == "Two cups."
    assert validate(tmp_path / "out.jsonl", tmp_path / "web", check_images=True) == []


@pytest.mark.parametrize(
    ("settings", "captions"),
    [
        ({"phrases": "ref_exps"}, ["A brown dog next to an orange ball"]),
        ({"phrases": "both"}, ["A brown dog", "A brown dog next to an orange ball", "an orange ball"]),
        ({"min_score": "0.9"}, ["A brown dog"]),
    ],
)
def test_kosmos_grit_s_settings(tmp_path, settings, captions):
    pytest.importorskip("pyarrow")
    records, _ = converted(tmp_path, "kosmos_grit", "kosmos_grit", _web(tmp_path), settings=settings)
    assert texts_of(records[0])[1::2] == captions


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        ([0.0, 99.0, 0, 0, 1, 1, 1], "a phrase is characters of the 4"),
        ([0.0, 2.0, 0, 0, 1, 1], "a phrase is a list of 7"),
    ],
)
def test_kosmos_grit_s_damage_is_named(tmp_path, chunk, expected):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {"id": [1], "url": ["u"], "caption": ["cups"], "noun_chunks": [[list(map(float, chunk))]], "ref_exps": [[]]}
    types = pa.list_(pa.list_(pa.float64()))
    fields = [
        ("id", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("noun_chunks", types),
        ("ref_exps", types),
    ]
    parquet.write_table(pa.table(rows, pa.schema(fields)), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=rf"a\.parquet row 0: {expected}"):
        converted(tmp_path, "kosmos_grit", tmp_path / "a.parquet", _web(tmp_path))


def test_glamm():
    images, notes = read("glamm", GRANDF, "coco")
    (one,), (two,) = images["val2017/000000000101.jpg"], images["val2017/000000000102.jpg"]
    assert [(item.captions, list(item.box)) for item in one.objects] == [
        (("A brown dog",), box_of("s1", "dog")),
        (("an orange ball",), box_of("s1", "ball")),
    ]
    assert coco_mask.toBbox(one.objects[0].region["mask"]).tolist() == [8, 16, 24, 24]
    assert one.grounded[0].phrases == ((0, 11, (0,)), (25, 39, (1,)))
    assert two.grounded[0].phrases == ((0, 8, (0, 1)),)
    assert [item.captions for item in two.objects] == [(), ()]
    assert not notes.drops


def test_glamm_s_other_layouts():
    (one,) = read("glamm", REFS, "refcoco/images")[0]["train2014/COCO_train2014_000000000102.jpg"]
    assert one.grounded[0].phrases == ((0, 13, (0,)), (20, 34, (1,)))
    assert [list(item.box) for item in one.objects] == [box_of("s2", "cup_high"), box_of("s2", "cup_low")]
    flickr, _ = read("glamm_flickr", "glamm/flickr_mergedGT_GCG_train.json", "flickr30k_entities")
    (two,) = flickr["flickr30k-images/1001.jpg"]
    assert [item.captions for item in two.objects] == [("A brown dog",), ("an orange ball",)]
    assert all("mask" in item.region and not item.label for item in two.objects)
    assert two.grounded[0].phrases == ((0, 11, (0,)), (25, 39, (1,)))


@pytest.mark.parametrize(
    ("source", "change", "expected"),
    [
        (GRANDF, put("groundings", "A brown dog", "token_positives", [0, 99]), "token_positives of 'A brown dog' is"),
        (
            GRANDF,
            put("groundings", "A brown dog", "rle_masks", 0, "size", [64, 48]),
            "segmentation is 48x64",
        ),
        (GRANDF, put("groundings", "A brown dog", "rle_masks", 0, "counts", "h<7"), "segmentation: run lengths sum"),
        (REFS, put("refs", 0, "segmentation", "x"), "'segmentation' is a list or an object"),
    ],
)
def test_glamm_s_damage_is_named(tmp_path, source, change, expected):
    folder = "coco" if source == GRANDF else "refcoco/images"
    with pytest.raises(SourceError, match=rf"source\.json line 1: {expected}"):
        converted(tmp_path, "glamm", changed(tmp_path, source, change), folder)


def test_a_phrase_that_its_caption_does_not_hold_is_counted(tmp_path):
    path = changed(tmp_path, REFS, put("refs", 0, "sentence", "a horse"))
    images, notes = read("glamm", path, "refcoco/images")
    ((one,),) = images.values()
    assert (len(one.objects), len(one.grounded[0].phrases)) == (2, 1)
    assert notes.counts["phrases that their caption does not hold"] == 1


class _Runs:
    """A pickle of this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return __import__("os").mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "tar", "parquet"])
def test_describe_anything_s_pickles_are_refused_with_advice(tmp_path, kind):
    folder = tmp_path / "source"
    folder.mkdir()
    content = pickle.dumps(_Runs(tmp_path / "ran"))
    (folder / "0.pickle").write_bytes(content)
    if kind == "tar":
        with tarfile.open(folder / "00000.tar", "w") as tar:
            tar.add(folder / "0.pickle", "0.pickle")
        (folder / "0.pickle").unlink()
    if kind == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"jpg": [b""], "pickle": [content]}), folder / "a.parquet")
        (folder / "0.pickle").unlink()
    assert describe(folder, detect(folder)).startswith("describe_anything ")
    with pytest.raises(SourceError, match=r"runs whatever code is in it.*Take the same annotations"):
        converted(tmp_path, "auto", folder, "coco")
    assert not (tmp_path / "ran").exists()
