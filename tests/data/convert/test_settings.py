"""Settings that have no effect on a source are refused."""

import pytest

from pvit_ext.data.convert.base import FORMATS, ReadOptions, SourceError
from pvit_ext.data.convert.image_folder import ImageFolder
from tests.data.convert.truth import FIXTURES, converted

XML = "voc/VOCdevkit/VOC2012/Annotations/2012_000101.xml"
REFS = "refcoco/refcocog/refs(umd).p"


@pytest.mark.parametrize(
    ("name", "source", "settings", "expected"),
    [
        ("voc", XML, {"split": "val"}, r"2012_000101\.xml is one file: split chooses files of a folder, leave it out"),
        ("refcoco", REFS, {"by": "google"}, r"refs\(umd\)\.p is one file: by=google chooses a file of a folder"),
        (
            "qwen_json", "qwen/qwen3_vl.json", {"numbers": "thousandths", "min_pixels": "3136"},
            "qwen_json: min_pixels and max_pixels are for numbers=pixels, leave them out",
        ),
        ("kosmos_grit", "kosmos_grit", {"min_score": "nan"}, "kosmos_grit: min_score is a number, got 'nan'"),
        ("kosmos_grit", "kosmos_grit", {"min_score": "much"}, "kosmos_grit: min_score is a number, got 'much'"),
    ],
)  # fmt: skip
def test_settings_without_effect(name, source, settings, expected):
    with pytest.raises(SourceError, match=expected):
        _first(name, source, settings)


def _first(name, source, settings):
    reader = FORMATS.require(name)(FIXTURES / source, ReadOptions(ImageFolder(FIXTURES), settings))
    return next(iter(reader.units()))


def test_a_setting_that_a_file_agrees_with():
    assert _first("refcoco", REFS, {"by": "umd"}) == _first("refcoco", REFS, {})


@pytest.mark.parametrize(
    ("name", "source", "folder", "options", "counts", "remarks"),
    [
        ("coco", "coco/annotations/instances_val2017.json", "coco", {"boxes": True}, True, []),
        (
            "qwen_vl", "qwen/qwen_vl.json", "qwen", {"boxes": True}, False,
            ["--boxes changed nothing: no region is a mask or an outline"],
        ),
        ("voc", "bccd", "bccd", {"box_jitter": 0.1}, True, []),
        (
            "osprey", "osprey/osprey_detail_description.json", "coco", {"box_jitter": 0.1}, False,
            ["--box-jitter 0.1 moved nothing: no region is a plain box"],
        ),
        (
            "osprey", "osprey/osprey_detail_description.json", "coco", {"box_jitter": 0.1, "boxes": True}, True, [],
        ),
    ],
)  # fmt: skip
def test_options_that_change_nothing(tmp_path, name, source, folder, options, counts, remarks):
    _, report = converted(tmp_path, name, source, folder, **options)
    assert bool(report.counts["regions written as boxes"] or report.counts["boxes moved"]) == counts
    assert [remark for remark in report.remarks if remark.startswith("--box")] == remarks
