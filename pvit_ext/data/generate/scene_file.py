"""Scenes read from a file of records with regions: those of ``pvit-ext data convert``, or the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY
from pvit_ext.data.generate.scene import Scene
from pvit_ext.data.generate.scene_record import (
    ABOUT_THE_IMAGE,
    PER_REGION,
    annotations_of,
    captions_of,
    parse_scene,
)
from pvit_ext.data.image_files import plain_name
from pvit_ext.data.json_records import read_json_records
from pvit_ext.data.scan import name_of


class SceneFile:
    """The scenes of a JSON Lines file or JSON array, read anew by each pass.

    Args:
        path: of the file.
        image_folder: that its images are in.
        max_bad: how many bad records are passed over.
        captions: of images, besides those in the file; see :func:`read_captions`.

    Attributes:
        problems: of the last pass, one line each, with file, line and id.
        skipped: records of the last pass that are no scene, by reason.
        strange: images of ``captions`` that the last pass did not meet.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        image_folder: str | PathLike[str],
        max_bad: int = 0,
        captions: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.path, self.folder, self.max_bad = Path(path), str(image_folder), max_bad
        self.captions = captions or {}
        self.problems: list[str] = []
        self.skipped: Counter[str] = Counter()
        self.strange = set(self.captions)

    def __iter__(self) -> Iterator[Scene]:
        self.problems, self.skipped, self.strange = [], Counter(), set(self.captions)
        names: set[str] = set()
        for found in read_json_records(self.path):
            location = name_of(self.path.name, found.line, found.value)
            try:
                value = annotations_of(found.value)
                if reason := _no_scene(value):
                    self.skipped[reason] += 1
                    continue
                scene = parse_scene(value, self.folder, f"{self.path.stem}-{found.line}")
                if scene.name in names:
                    raise ValueError(f"id {scene.name!r} is given to two records")
            except (ValueError, OSError) as error:
                self._add(f"{location}: {error}")
                continue
            names.add(scene.name)
            self.strange.discard(image := plain_name(scene.image))
            yield replace(scene, captions=tuple(dict.fromkeys([*scene.captions, *self.captions.get(image, ())])))
        if not names:
            first = f": {self.problems[0]}" if self.problems else ""
            raise ValueError(f"{self.path} has no usable record{first}")

    def remarks_of_captions(self, path: Path) -> list[str]:
        """How many images of :attr:`captions` the last pass did not meet, for the user.

        Args:
            path: of the captions' file.

        Raises:
            ValueError: when it met none of them.
        """
        if self.captions and len(self.strange) == len(self.captions):
            raise ValueError(
                f"--captions {path}: none of its {len(self.strange):,} images is among the usable ones of {self.path}, "
                f"such as {min(self.strange)}: give the captions of these images, or leave it out"
            )
        if not self.strange:
            return []
        return [f"  {len(self.strange):,} image(s) of {path} are not among the usable ones of {self.path}"]

    def _add(self, problem: str) -> None:
        self.problems.append(problem)
        if len(self.problems) > self.max_bad:
            raise ValueError(
                f"{len(self.problems)} bad record(s), --max_bad_records allows {self.max_bad}:\n"
                + "\n".join(self.problems[-20:])
            )


def _no_scene(value: dict[str, Any]) -> str | None:
    """Why a record of a converted file is no scene; None if it is one, or should be."""
    if SOURCE_KEY in value:
        return None if value["regions"] else "nothing is marked in the image"
    if "conversations" in value and not any(value.get(key) for key in (*PER_REGION, *ABOUT_THE_IMAGE)):
        return "a record without annotations, such as a further one of an image"
    return None


def read_captions(path: str | PathLike[str]) -> dict[str, tuple[str, ...]]:
    """The captions of each image in a file of records, converted or the user's own; by :func:`plain_name`.

    Raises:
        ValueError: naming file and line of a bad record.
    """
    found: dict[str, tuple[str, ...]] = {}
    for one in read_json_records(path):
        try:
            value = annotations_of(one.value)
            captions = captions_of({key: item for key, item in value.items() if item is not None})
        except ValueError as error:
            raise ValueError(f"{name_of(Path(path).name, one.line, one.value)}: {error}") from error
        if captions:
            image = plain_name(str(value.get("image")))
            found[image] = (*found.get(image, ()), *captions)
    if not found:
        raise ValueError(f"{path} has no captions")
    return found
