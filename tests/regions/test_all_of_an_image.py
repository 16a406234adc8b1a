"""The whole image in fractions without ``normalized``: no kind of region is answered about the top-left pixel."""

from __future__ import annotations

from typing import Any

import pytest

from pvit_ext.regions.region import Region, RegionError

CORNERS = [(0, 0), (1, 0), (1, 1), (0, 1)]


@pytest.mark.parametrize("points", [CORNERS, CORNERS[:3], [(0, 0), (0, 1), (1, 0)]])
@pytest.mark.parametrize("make", [Region.polygon, Region.scribble, lambda points: Region.polygon([points, points])])
def test_all_of_an_image_as_another_kind_is_no_pixel_either(make: Any, points: list[tuple[float, float]]) -> None:
    with pytest.raises(RegionError, match=r"lies in the top-left pixel; for fractions 0\.\.1 say normalized=True"):
        make(points).resolve((640, 480))
    assert make(points).resolve((8, 8))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 1), (0, 1)])
def test_one_point_in_the_first_pixel_is_meant(x: float, y: float) -> None:
    assert Region.point(x, y).resolve((640, 480)).points == ((x, y),)
    assert Region.scribble([(x, y)]).resolve((640, 480)).points == ((x, y),)
