"""Qwen2.5-VL's and Qwen3-VL's JSON answers: what their numbers are has to be said."""

import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.formats.qwen_json import resized
from tests.data.convert.truth import FIXTURES, box_of, changed, converted, put, texts_of

PIXELS, THOUSANDTHS = "qwen/qwen2_5_vl.json", "qwen/qwen3_vl.json"
OLD, NEW = {"numbers": "pixels", "min_pixels": "3136", "max_pixels": "12845056"}, {"numbers": "thousandths"}


@pytest.mark.parametrize(("source", "settings", "near"), [(PIXELS, OLD, 0.6), (THOUSANDTHS, NEW, 0.05)])
def test_what_answers_locate_is_asked_about(tmp_path, source, settings, near):
    records, report = converted(tmp_path, "qwen_json", source, "qwen", settings=settings)
    assert texts_of(records[0])[1::2] == ["yellow cup", "white cup"]
    for region, key in zip(records[0]["regions"], ("cup_low", "cup_high"), strict=True):
        assert region == pytest.approx(box_of("s2", key), abs=near)
    assert report.dropped["boxes_asked"] == 2
    assert validate(tmp_path / "out.jsonl", FIXTURES / "qwen", check_images=True) == []


def test_points(tmp_path):
    records, _ = converted(tmp_path, "qwen_json", THOUSANDTHS, "qwen", settings=NEW)
    assert records[1]["regions"][0]["point"] == pytest.approx([71, 6], abs=0.05)
    records, _ = converted(tmp_path, "qwen_json", THOUSANDTHS, "qwen", settings=NEW, open_images=False)
    assert records[1]["regions"][0] == {"point": [0.888, 0.15], "normalized": True}


def test_a_point_in_the_top_left_pixel_is_kept(tmp_path):
    source = changed(tmp_path, THOUSANDTHS, put("conversations", 1, "value", '[{"point_2d": [1, 1], "label": "cup"}]'))
    records, _ = converted(tmp_path, "qwen_json", source, "qwen", settings=NEW)
    assert records[0]["regions"] == [{"point": pytest.approx([0.001, 0.001]), "normalized": True}]
    assert validate(tmp_path / "out.jsonl", FIXTURES / "qwen", check_images=True) == []


def test_boxes_of_a_question(tmp_path):
    talk = ['What is {"bbox_2d": [625, 625, 833, 812]}?', "A cup."]
    turns = [{"from": who, "value": text} for who, text in zip(("human", "gpt"), talk, strict=True)]
    source = changed(tmp_path, THOUSANDTHS, put("conversations", turns))
    records, _ = converted(tmp_path, "auto", source, "qwen", settings=NEW)
    assert texts_of(records[0]) == ["<image>\nWhat is <region>?", "A cup."]


@pytest.mark.parametrize(
    ("size", "expected"),  # of transformers' smart_resize with these limits
    [
        ((64, 48), (56, 56)),
        ((80, 40), (84, 56)),
        ((640, 480), (644, 476)),
        ((4000, 3000), (1148, 840)),
        ((1393, 9), (700, 28)),
    ],
)
def test_resized_as_qwen_s_processor_does(size, expected):
    assert resized(size, 3136, 1003520) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "does not say what its numbers are: --set numbers=thousandths for data of Qwen3-VL"),
        ({"numbers": "pixels"}, "need the limits of its data, two whole numbers: --set min_pixels=3136"),
        ({**OLD, "min_pixels": "99999999"}, "need the limits of its data"),
        ({"numbers": "percent"}, "numbers is one of thousandths, pixels"),
    ],
)
def test_what_numbers_are_has_to_be_said(tmp_path, settings, expected):
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "qwen_json", PIXELS, "qwen", settings=settings)


@pytest.mark.parametrize(
    ("answer", "settings", "expected"),
    [
        ('[{"bbox_2d": [1, 2, 3, 1001]}]', NEW, r"is beyond 1000x1000; are numbers, min_pixels, max_pixels right\?"),
        ('[{"bbox_2d": [1, 2, 3, 900]}]', OLD, r"is beyond 56x56; are numbers, min_pixels, max_pixels right\?"),
        ('[{"bbox_2d": [1, 2, 3]}]', NEW, "bbox_2d is a list of 4 finite numbers"),
        ('[{"bbox_2d": [1, 2, 3, 4],}]', NEW, "not valid JSON"),
        ('[{"bbox_2d": [1, 2, 3, 4]', NEW, "bbox_2d or point_2d in what is no JSON"),
    ],
)
def test_damage_is_named(tmp_path, answer, settings, expected):
    source = changed(tmp_path, PIXELS, put("conversations", 1, "value", answer))
    with pytest.raises(SourceError, match=rf"source\.json line 1: .*{expected}"):
        converted(tmp_path, "qwen_json", source, "qwen", settings=settings)
