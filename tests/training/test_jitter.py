"""Boxes move by a little, by other amounts in every epoch, by the same in an epoch that is resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pvit_ext import Region
from pvit_ext.regions.jitter import jitter_box
from pvit_ext.training.llava.arguments import RegionDataArguments
from pvit_ext.training.sampler import EpochSampler
from tests.training.records import make_dataset


def test_jitter_stays_within_two_percent() -> None:
    draw = np.random.default_rng(0)
    size = (300, 300)
    box = Region.box(10, 20, 110, 220).resolve(size, "line 3: region 1")
    moved = np.array([np.ravel(jitter_box(box, 0.02, draw).points) for _ in range(2000)]) - (10, 20, 110, 220)
    assert (np.abs(moved) <= (2.0001, 4.0001, 2.0001, 4.0001)).all()
    assert (np.abs(moved).max(0) > (1.9, 3.8, 1.9, 3.8)).all()
    for still in (Region.box(0, 0, 0.5, 40).resolve(size), Region.point(3, 3).resolve(size)):
        assert jitter_box(still, 0.02, draw) is still
    edge = jitter_box(Region.box(0, 0, 300, 300).resolve(size, "line 3: region 1"), 0.4, np.random.default_rng(1))
    assert edge.resolve(size) is edge  # resolved as before, and within the image
    assert edge.name == "line 3: region 1"
    assert (np.clip(np.ravel(edge.points), 0, 300) == np.ravel(edge.points)).all()
    assert jitter_box(box, 0.0, draw) is box


@pytest.mark.parametrize("workers", [0, 1])
def test_jitter_changes_with_every_epoch(llava_checkpoint: Path, data: Path, template, workers: int) -> None:
    dataset = make_dataset(llava_checkpoint, data, region_jitter=0.02)
    epoch = 0
    order = EpochSampler(range(len(dataset)), seed=0, epoch=lambda: epoch)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, sampler=order, num_workers=workers, persistent_workers=workers > 0
    )
    epochs = []
    for epoch in (0, 1, 1):  # noqa: B007
        epochs.append([item["regions"][0].points for item in loader if item["regions"]])
    assert len(epochs[0]) == 6
    assert not any(first == second for first, second in zip(epochs[0], epochs[1], strict=True))
    assert epochs[1] == epochs[2]  # a resumed epoch, whatever was drawn before


@pytest.mark.parametrize("jitter", [-0.1, 0.5, 0.6])
def test_jitter_out_of_range_is_refused(jitter: float) -> None:
    with pytest.raises(ValueError, match="--region_jitter"):
        RegionDataArguments(region_jitter=jitter)
