"""Any JSON in any place of a source is an error that says so, never a traceback of something else."""

import json
import random
import shutil

import pytest

from pvit_ext.data.convert.base import FORMATS, ReadOptions, SourceError
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import BadItem, Notes
from tests.data.convert.test_formats_in_workers import SOURCES
from tests.data.convert.truth import FIXTURES, converted

VALUES = (None, True, -1, 1e308, float("nan"), 10**30, "", "x", "<region>", [], [1], [[1, 2]], {}, {"a": 1}, [None])
OTHERS = {
    "osprey_description": ("osprey", "osprey/osprey_detail_description.json"),
    "shikra_sentence": ("shikra", "shikra/CWB_flickr30k_train.jsonl"),
    "shikra_reasoned": ("shikra", "shikra/GPT4GEN_BoxCoT_train.jsonl"),
    "shikra_point": ("shikra", "shikra/pointQA_local_train.jsonl"),
    "glamm_refs": ("glamm", "glamm/RefCOCOg_GCG_train.json"),
    "pixelrefer_caption": ("pixelrefer", "pixelrefer/vg_val_5000.json"),
}
NOT_JSON = {"cvat", "flickr30k", "voc", "yolo", "gar_arrow", "kosmos_grit", "refcoco_parquet"}
CASES = [*(name for name in SOURCES if name not in NOT_JSON), *OTHERS]


def _places(value, path=()):
    """Every place in a JSON value."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


def _spoil(text, chance):
    """The text with another value, or none, somewhere."""
    items = [json.loads(line) for line in text.splitlines()] if text.startswith("{") and "}\n{" in text else None
    value = items if items is not None else json.loads(text)
    *path, last = chance.choice([place for place in _places(value) if items is None or len(place) > 1])
    inner = value
    for key in path:
        inner = inner[key]
    if isinstance(inner, dict) and chance.random() < 0.2:
        del inner[last]
    else:
        inner[last] = chance.choice(VALUES)
    return "\n".join(map(json.dumps, items)) if items is not None else json.dumps(value)


def _read(name, source, folder, settings):
    reader = FORMATS.require(name)(source, ReadOptions(ImageFolder(folder), settings))
    for unit in reader.units():
        try:
            list(reader.read(unit, Notes()))
        except BadItem:
            continue
    reader.classes()


@pytest.mark.parametrize("case", CASES)
def test_spoilt_values_are_told_about(tmp_path, case):
    name, source = OTHERS.get(case, (case, ""))
    source, (_, folder, settings) = source or SOURCES[name][0], SOURCES[name]
    chance = random.Random(case)
    for number in range(40):
        path = tmp_path / str(number)
        if (FIXTURES / source).is_dir():
            shutil.copytree(FIXTURES / source, path, ignore=shutil.ignore_patterns("*.jpg"))
            spoilt = chance.choice(sorted(path.rglob("*.json")))
        else:
            path.mkdir()
            path = spoilt = path / source.rsplit("/", 1)[-1]
            shutil.copy(FIXTURES / source, path)
        text = _spoil(spoilt.read_text(), chance)
        spoilt.write_text(text)
        try:
            _read(name, path, FIXTURES / folder, settings)
        except (SourceError, BadItem):
            continue
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} of {text[:2000]}") from error


def test_a_bad_size_of_visual_genome_is_of_its_image(tmp_path):
    shutil.copytree(FIXTURES / "visual_genome", tmp_path / "vg")
    path = tmp_path / "vg/image_data.json"
    images = json.loads(path.read_text())
    images[0]["width"] = "64"
    path.write_text(json.dumps(images))
    with pytest.raises(SourceError, match=rf"\nimage_data\.json image {images[0]['image_id']}: width and height are"):
        converted(tmp_path, "visual_genome", tmp_path / "vg", tmp_path / "vg")
