"""Ground truth in COCO's layout (COCO, LVIS and files of others): objects with their category and image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.fields import is_set
from pvit_ext.data.convert.formats.coco_tables import check_same
from pvit_ext.data.image_files import find_file, short
from pvit_ext.evaluation.fields import given, text_of
from pvit_ext.files import read_text


@dataclass(frozen=True)
class CocoFile:
    """A file of instances.

    Args:
        path: of it.
        values: images, annotations and categories.
    """

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> CocoFile:
        """Read a file.

        Raises:
            ValueError: for one of another layout.
        """
        try:
            values = json.loads(read_text(path))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
        needed = ("images", "annotations", "categories")
        if not isinstance(values, dict) or not all(isinstance(values.get(name), list) for name in needed):
            raise ValueError(f"{path} is no file of instances: it has images, annotations and categories")
        return cls(path, values)

    def categories(self) -> dict[int, str]:
        """Names by id.

        Raises:
            ValueError: naming a category without them, or an id of two names.
        """
        return {number: one["name"] for number, one in self._by_id("categories", "category", "name").items()}

    def _by_id(self, key: str, what: str, *texts: str) -> dict[Any, dict[str, Any]]:
        """The entries of a list, each with an id and these texts."""
        found: dict[Any, dict[str, Any]] = {}
        for number, one in enumerate(self.values[key]):
            try:
                first = found.setdefault(given(one, "id"), one)
                for name in texts:
                    text_of(one, name)
            except (KeyError, TypeError) as error:
                needed = " and ".join(("id", *texts))
                raise ValueError(f"{self.path.name} {what} at place {number}: expected {needed} ({error!r})") from error
            if first is not one:
                check_same(self.path, f"{what} id {one['id']}", first, one)
        return found

    def objects(
        self, leave_out: Callable[[str], None] = lambda reason: None
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each annotation with its image; crowds, and boxes without an area, are left out.

        Args:
            leave_out: is told why, for each that is.

        Raises:
            ValueError: naming an annotation without a box, or of an image that is not in the file; an id of two images.
        """
        images = self._by_id("images", "image")
        for number, item in enumerate(self.values["annotations"]):
            if not isinstance(item, dict):
                raise ValueError(f"{self.path.name} annotation at place {number} is no object but {short(item)}")
            name = f"{self.path.name} annotation {item.get('id', f'at place {number}')}"
            try:
                if is_set(item, "iscrowd"):
                    leave_out("a crowd")
                    continue
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            try:
                (_, _, width, height), image, _ = item["bbox"], images[item["image_id"]], item["id"]
                if not all(isinstance(value, (int, float)) for value in item["bbox"]):
                    raise TypeError(f"bbox is {short(item['bbox'])}")
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{name} has no id, no bbox [x, y, width, height], or an image_id that no image of the file has "
                    f"({error!r})"
                ) from error
            if width > 0 and height > 0:
                yield item, image
            else:
                leave_out("a box without an area")


def image_path(image: Mapping[str, Any], folder: str) -> str:
    """The path of an image in the image folder: by its name, by the last parts of its address, or by its number.

    Args:
        image: of COCO's list; LVIS's has an address and no name.
        folder: with the images, or with folders such as ``val2017``.

    Raises:
        FileNotFoundError: with what was looked for.
    """
    names = [str(image[key]) for key in ("file_name",) if key in image]
    if address := image.get("coco_url"):
        names += ["/".join(str(address).split("/")[-2:]), str(address).rpartition("/")[2]]
    for name in names:
        if (found := find_file(folder, name)) is not None:
            return found
    raise FileNotFoundError(f"image {image.get('id')}: none of {', '.join(names)} is in the image folder {folder}")
