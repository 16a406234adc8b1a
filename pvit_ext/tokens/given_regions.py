"""Regions and sizes of images as users have them: lists of numbers, arrays and tensors of detectors, masks of SAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pvit_ext.data.region_fields import KINDS, parse_region
from pvit_ext.regions.image_source import describe
from pvit_ext.regions.mask_values import mask_of_image
from pvit_ext.regions.region import Region, RegionError, Size

_REGIONS = (
    "regions are Region.box(x0, y0, x1, y1) and the like, four numbers for a box, a bool array for a mask, or one of a "
    'data record, {"polygon": [[x, y], ...]}'
)


def read_regions(given: Any, name: str) -> list[Region]:
    """The regions of one sample.

    Args:
        given: a list, an array or a tensor of regions, or one region alone: a Region, four numbers (a box in pixels), a
            bool array (H, W), run lengths or an image of one channel (a mask), or an object as data records have it,
            ``{"polygon": ...}``. None for none.
        name: of the sample, for messages.

    Raises:
        RegionError: naming the sample and what is no region.
    """
    given = _plain(given)
    if given is None:
        return []
    if _is_one(given):
        given = [given]
    if not is_list(given):
        raise RegionError(f"{name}: its regions are {describe(given)}; {_REGIONS}")
    return [_region(one, f"{name}, region {number}") for number, one in enumerate(given)]


def regions_per_sample(given: Any, samples: int) -> Sequence[Sequence[Region] | None]:
    """The regions of each sample of a batch; lists of Region are passed on as they are.

    Args:
        given: of each sample what :func:`read_regions` takes; for one sample also that alone. None for no regions.
        samples: B. Whether there are as many lists is left to who gets them.

    Raises:
        RegionError: naming the sample and what is no region.
    """
    if given is None:
        return []
    if _is_read(given):
        found: Sequence[Sequence[Region] | None] = given
        return found
    given, only = _plain(given), samples == 1
    if _is_one(given) and not only:
        raise RegionError(
            f"regions is one region, for {samples} prompts: give a list of regions (or None) for each, "
            "regions=[[Region.box(...)], ...]"
        )
    if only and (_is_one(given) or (is_list(given) and any(_is_one(_plain(one)) for one in given))):
        given = [given]
    if not is_list(given):
        raise RegionError(
            f"regions is {describe(given)}; give a list of regions (or None) for each of {samples} prompt(s)"
        )
    return [read_regions(own, f"sample {sample}") for sample, own in enumerate(given)]


def read_sizes(given: Any, name: str) -> list[Size] | None:
    """(width, height) of each image.

    Args:
        given: pairs of numbers, or an array or tensor (B, 2). None stays None.
        name: of the argument, for messages.

    Raises:
        RegionError: for anything else.
    """
    if given is None:
        return None
    try:
        rows = given.tolist() if hasattr(given, "tolist") else given
        return [(int(width), int(height)) for width, height in rows]
    except (TypeError, ValueError) as error:
        raise RegionError(f"{name} is {describe(given)}; give (width, height) of each image") from error


def _is_read(given: Any) -> bool:
    """Whether regions are in lists of Region already, as a processor and the data workers hand them on."""
    return isinstance(given, (list, tuple)) and all(
        own is None or (isinstance(own, (list, tuple)) and all(isinstance(one, Region) for one in own)) for own in given
    )


def is_list(value: Any) -> bool:
    """Whether a value holds others in order."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _is_box(value: Any) -> bool:
    return is_list(value) and len(value) == 4 and all(map(_is_number, value))


def _is_one(value: Any) -> bool:
    """Whether a value is one region, or means to be; not a list of them."""
    return isinstance(value, (Region, dict, Image.Image)) or _is_box(value) or _is_mask(value)


def _plain(value: Any) -> Any:
    """A tensor, as detectors and SAM return them, as an array on the CPU; anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    short = value.is_floating_point() and value.element_size() < 4  # numpy has no bfloat16; a double keeps its digits
    return (value.float() if short else value).detach().cpu().numpy()


def _is_mask(value: Any) -> bool:
    """Whether an array is one mask, not N rows of numbers; detectors return up to six a row."""
    return isinstance(value, np.ndarray) and value.ndim == 2 and (value.dtype == np.bool_ or min(value.shape) > 6)


def _region(value: Any, name: str) -> Region:
    value = _plain(value)
    if isinstance(value, Region):
        return value
    try:
        if isinstance(value, Image.Image):
            return Region.mask(mask_of_image(value))
        if (isinstance(value, np.ndarray) and value.ndim == 2) or (isinstance(value, dict) and "counts" in value):
            return Region.mask(value)
        if isinstance(value, dict) and value.keys() & set(KINDS):
            return _of_record(value, name)
        if _is_box(value):
            return Region.box(*(float(number) for number in value))
    except ValueError as error:  # RegionError is one
        raise RegionError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
    raise RegionError(f"{name} is {describe(value)}; {_REGIONS}")


def _of_record(value: dict[str, Any], name: str) -> Region:
    if (mask := value.get("mask")) is not None and not isinstance(mask, (str, dict)):
        raise RegionError(f"its mask is {describe(mask)}: give it alone, or Region.mask(...)")
    region = parse_region({key: _as_json(one) for key, one in value.items()}, name, None)
    if isinstance(region, Region):
        return region
    if isinstance(region.source, str):  # it lies in the image folder, which nobody named here
        raise RegionError(f"its mask is a file: give Region.mask(PIL.Image.open({region.source!r}))")
    return region.load(None, name)


def _as_json(value: Any) -> Any:
    """Lists, as in JSON, for the tuples, arrays and tensors that coordinates are in Python."""
    value = _plain(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_as_json(one) for one in value] if isinstance(value, (list, tuple)) else value
