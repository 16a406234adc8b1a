"""What the fixtures' readers must find, and short ways to read them."""

import json
from pathlib import Path

from pvit_ext.data.convert.base import FORMATS, ReadOptions
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.pictures import Pictures
from pvit_ext.data.convert.run import Job, convert

FIXTURES = Path(__file__).parent.parent / "fixtures"
TRUTH = json.loads((FIXTURES / "TRUTH.json").read_text())


def read(name, source, folder, **settings):
    """Images of a source by their file's name, and the notes."""
    reader = FORMATS.require(name)(FIXTURES / source, ReadOptions(Pictures(FIXTURES / folder), settings))
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
