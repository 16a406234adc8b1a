"""Which regions are whose: a batch's, and those of a single sample that need no list around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pvit_ext import Region, RegionError
from pvit_ext.tokens.given_regions import read_sizes, regions_per_sample
from pvit_ext.tokens.processor import RegionProcessor
from tests.tokens.test_query import PHOTO

ONE, TWO = Region.box(1, 2, 9, 8), Region.box(3, 2, 9, 8)
BOXES = [[1, 2, 9, 8], [3, 2, 9, 8]]


@pytest.mark.parametrize(
    ("given", "samples", "wanted"),
    [
        (None, 2, []),
        ([], 1, []),
        (np.zeros((0, 4)), 1, []),
        (ONE, 1, [[ONE]]),
        (BOXES[0], 1, [[ONE]]),
        ([ONE, TWO], 1, [[ONE, TWO]]),
        (BOXES, 1, [[ONE, TWO]]),
        (np.array(BOXES), 1, [[ONE, TWO]]),
        (torch.tensor([BOXES]), 1, [[ONE, TWO]]),
        (torch.tensor([BOXES], dtype=torch.bfloat16), 1, [[ONE, TWO]]),
        (torch.tensor([[0.1, 0.2, 9.7, 8.3]], dtype=torch.float64), 1, [[Region.box(0.1, 0.2, 9.7, 8.3)]]),
        ([ONE, BOXES[1]], 1, [[ONE, TWO]]),
        ([torch.tensor(BOXES[0]), TWO], 1, [[ONE, TWO]]),
        ([None], 1, [None]),
        ([ONE, TWO], 2, [[ONE], [TWO]]),
        ([BOXES, None], 2, [[ONE, TWO], []]),
        (np.array(BOXES), 2, [[ONE], [TWO]]),
        ([[ONE]], 3, [[ONE]]),
    ],
)
def test_of_each_sample(given: Any, samples: int, wanted: list[Any]) -> None:
    assert repr([*regions_per_sample(given, samples)]) == repr(wanted)  # regions are equal to themselves alone


def test_what_is_read_is_passed_on() -> None:
    """A training batch is not built anew."""
    given = [[ONE], None, (TWO,)]
    assert regions_per_sample(given, 3) is given


@pytest.mark.parametrize("given", [ONE, BOXES[0], np.ones((9, 9), bool), PHOTO])
def test_one_region_for_several_samples_is_refused(given: Any) -> None:
    with pytest.raises(RegionError, match=r"^regions is one region, for 2 prompts: give a list of regions"):
        regions_per_sample(given, 2)


@pytest.mark.parametrize("given", [[(4, 3)], np.array([[4, 3]]), torch.tensor([[4.0, 3.0]]), [torch.tensor([4, 3])]])
def test_sizes(given: Any) -> None:
    assert read_sizes(given, "image_sizes") == [(4, 3)]


@pytest.mark.parametrize("given", [[4, 3], 4, "43", [(4, 3, 3)], torch.tensor([4, 3])])
def test_what_is_no_list_of_sizes(given: Any) -> None:
    with pytest.raises(RegionError, match=r"^image_sizes is .*; give \(width, height\) of each image"):
        read_sizes(given, "image_sizes")


def test_a_region_processor_reads_them_too() -> None:
    made = RegionProcessor()([PHOTO], ["what is <region> ?"], np.array(BOXES[:1]), "sample 0")  # type: ignore[arg-type]
    assert repr(made.regions) == repr(RegionProcessor()([PHOTO], ["what is <region> ?"], [ONE], "sample 0").regions)
    with pytest.raises(RegionError, match=r"^sample 0, region 0 is str 'dog'; regions are"):
        RegionProcessor()([PHOTO], ["what is <region> ?"], ["dog"], "sample 0")  # type: ignore[list-item]
