"""Masks of a record: files and run lengths."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvit_ext.data.check import validate
from pvit_ext.data.records import load_records
from pvit_ext.regions.region import RegionError
from tests.data.records import pixels, record, run_lengths, write


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_mask_files(folder: Path, mode: str) -> None:
    (folder / "masks").mkdir()
    Image.fromarray(pixels().astype(np.uint8) * 255).convert(mode).save(folder / "masks" / "m.png")
    read = load_records(write(folder, [record(regions=[{"mask": "masks/m.png"}])]), folder)[0]
    assert np.array_equal(read.regions[0].to_mask((40, 20)), pixels())


def test_mask_run_lengths(folder: Path) -> None:
    read = load_records(write(folder, [record(regions=[{"mask": run_lengths(pixels())}])]), folder)[0]
    assert np.array_equal(read.regions[0].to_mask((40, 20)), pixels())


def test_unreadable_masks_name_the_record(folder: Path) -> None:
    (folder / "m.png").write_bytes(b"\x89PNG")
    Image.new("RGB", (40, 20)).save(folder / "rgb.png")
    for name, reason in (("m.png", "cannot read"), ("rgb.png", "3 channels")):
        path = write(folder, [record(regions=[{"mask": name}])])
        with pytest.raises(RegionError, match=rf"^train.json line 2 \(id '0'\): .*{reason}"):
            _ = load_records(path, folder)[0].regions
        assert len(validate(path, folder, check_images=True)) == 1
    with pytest.raises(RegionError, match="give the image folder"):
        _ = load_records(path)[0].regions


def test_run_lengths_take_four_bytes_each(folder: Path) -> None:
    """Every rank and, as reference counts are written, every data worker holds all of them."""
    mask = {"size": [1000, 1000], "counts": [1000] * 1000}
    path = write(folder, "\n".join([json.dumps(record(regions=[{"mask": mask}]))] * 100), "t.jsonl")
    tracemalloc.start()
    records = load_records(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 100
    assert held < 100 * (1000 * 4 + 3000)
