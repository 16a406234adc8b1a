"""A conversion to run: a source of any size, and what is to become of it."""

import json
import os

from PIL import Image

from pvit_ext.data.convert.run import Job


def many(folder, count):
    """A COCO file of so many images of one file's content."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 48)).save(folder / "0.jpg")
    for number in range(1, count):
        os.link(folder / "0.jpg", folder / f"{number}.jpg")
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in range(count)]
    annotations = [
        {"id": 3 * number + one, "image_id": number, "category_id": 1, "bbox": [one, 2, 3 + number % 40, 5]}
        for one in range(3)
        for number in reversed(range(count))
    ]
    source = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "coco.json").write_text(json.dumps(source))
    return folder / "coco.json"


def job(source, out, **fields):
    return Job("coco", source, source.parent, out, **fields)
