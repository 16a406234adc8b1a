"""What the fixtures' readers must find, and short ways to read them."""

import json
from pathlib import Path

from pvit_ext.data.convert.base import FORMATS, ReadOptions
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.run import Job, convert

FIXTURES = Path(__file__).parent.parent / "fixtures"
TRUTH = json.loads((FIXTURES / "TRUTH.json").read_text())


def read(name, source, folder, **settings):
    """Images of a source by their file's name, and the notes."""
    reader = FORMATS.require(name)(FIXTURES / source, ReadOptions(ImageFolder(FIXTURES / folder), settings))
    notes, images = Notes(), {}
    for unit in reader.units():
        for image in reader.read(unit, notes):
            images.setdefault(image.image, []).append(image)
    return images, notes


def reasons(notes):
    """How often each reason occurs."""
    found = {}
    for drop in notes.drops:
        found[drop.reason.name.lower()] = found.get(drop.reason.name.lower(), 0) + drop.count
    return found


def objects_of(scene, folder=None):
    """(label, box) of a scene's objects, sorted."""
    return sorted((one["label"], tuple(one["box"])) for one in TRUTH["scenes"][scene]["objects"] if not one["crowd"])


def boxes_of(image):
    """(label, box) of an image's objects, sorted."""
    return sorted((one.label, tuple(one.box)) for one in image.objects)


def converted(tmp_path, name, source, folder, **fields):
    """The records of a source and the report."""
    out = tmp_path / "out.jsonl"
    report = convert(Job(name, FIXTURES / source, FIXTURES / folder, out, **fields))
    return [json.loads(line) for line in out.read_text().splitlines()], report


def box_of(scene, key):
    """The box of an object of a scene."""
    (found,) = [one["box"] for one in TRUTH["scenes"][scene]["objects"] if one["key"] == key]
    return found


def texts_of(record):
    """What is said in a record."""
    return [turn["value"] for turn in record["conversations"]]


def changed(tmp_path, source, change):
    """A file with the first item of a JSON source, changed."""
    text = (FIXTURES / source).read_text()
    item = json.loads(text)[0] if text.startswith("[") else json.loads(text.splitlines()[0])
    change(item)
    path = tmp_path / "source.json"
    path.write_text(json.dumps([item]))
    return path


def put(*path_and_value):
    """A change: a value at a path of keys."""
    *path, last, value = path_and_value

    def change(item):
        for key in path:
            item = item[key]
        item[last] = value

    return change
