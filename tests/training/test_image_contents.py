"""Which image files a run compares, and what it says of those that changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from pvit_ext.data.records import Records, load_records
from pvit_ext.training.image_contents import changed_images, changed_states, image_contents, image_states
from tests.data.records import asked, record, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty images, and a mask on the first."""
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    return tmp_path


def read(folder: Path) -> Records:
    several = record(1, image=["1.png", "2.png"], conversations=asked("<image><image> <region>"))
    others = [record(number, image=f"{number}.png") for number in range(3, 40)]
    first = record(image="0.png", regions=[{"mask": "mask.png"}])
    return load_records(write(folder, [first, several, *others]), folder)


def test_all_images_and_masks_of_a_small_file(folder: Path) -> None:
    assert image_contents(read(folder)).keys() == {"mask.png", *(f"{number}.png" for number in range(40))}


def test_files_of_a_large_one_are_spread_evenly(folder: Path) -> None:
    names = list(image_contents(read(folder), 4))
    assert names == ["0.png", "mask.png", "13.png", "26.png"]


def test_times_do_not_count_and_contents_do(folder: Path) -> None:
    records = read(folder)
    before = image_contents(records)
    os.utime(folder / "7.png", (1, 1))
    assert changed_images(before, image_contents(records)) == []
    state = os.stat(folder / "9.png")
    content = bytearray((folder / "9.png").read_bytes())
    content[-20] ^= 1
    (folder / "9.png").write_bytes(content)
    os.utime(folder / "9.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    (folder / "mask.png").unlink()
    (said,) = changed_images(before, image_contents(records))
    assert said == "2 of 41 image files that were compared hold something else by now: mask.png, 9.png"


def test_all_files_of_a_large_file_are_compared_by_size_and_time(folder: Path) -> None:
    records = read(folder)
    before, contents = image_states(records), image_contents(records, 4)
    assert before.keys() == {"mask.png", *(f"{number}.png" for number in range(40))}
    assert changed_states(before, image_states(records), contents) == []
    (folder / "20.png").write_bytes(b"of another size")
    os.utime(folder / "21.png", (1, 1))
    (folder / "22.png").unlink()
    assert changed_states(before, image_states(records), contents) == [
        "2 of 37 further image files have another size by now: 20.png, 22.png",
        "1 of 37 further image files were written since: 21.png",
    ]
    for number in range(40):
        if number != 22:
            os.utime(folder / f"{number}.png", (number, number))
    (said,) = changed_states(before, image_states(records), contents)  # a copied folder has other times
    assert said.startswith("2 of 37")


def test_few_are_named_and_other_names_do_not_count() -> None:
    saved = {f"{number}.png": "a" for number in range(9)}
    own = {f"{number}.png": "b" for number in range(1, 20)}
    (said,) = changed_images(saved, own)
    assert said.startswith("8 of 8 image files")
    assert said.endswith("1.png, 2.png, 3.png, 4.png, 5.png and 3 more")


def test_a_file_of_text_alone_has_none(tmp_path: Path) -> None:
    path = write(tmp_path, [record(image=None, regions=None, conversations=asked("Why?"))])
    assert image_contents(load_records(path)) == {}
