"""The regions of one sample, in pixels of its images, and errors that name it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pvit_ext.regions.region import Region, RegionError, ResolvedRegion, Size


def resolve(region: Region, sizes: Sequence[Size], name: str, number: int) -> ResolvedRegion:
    """One region of a sample, clipped and checked.

    Args:
        region: as it was given.
        sizes: (width, height) of the sample's upright images.
        name: of the sample.
        number: of the region in it.

    Raises:
        RegionError: naming the region, for an image that is not there, and for what lies outside its image.
    """
    name = region.name if isinstance(region, ResolvedRegion) else f"{name}, region {number}"
    if not 0 <= region.image < len(sizes):
        raise RegionError(f"{name}: lies on image {region.image}, the sample has {len(sizes)} image(s)")
    return region.resolve(sizes[region.image], name)


def on_image(number: int, regions: Sequence[ResolvedRegion]) -> list[ResolvedRegion]:
    """The regions that lie on one image."""
    return [region for region in regions if region.image == number]


@contextmanager
def naming(sample: str) -> Iterator[None]:
    """Put the name of a sample before errors that name neither it nor one of its regions."""
    try:
        yield
    except RegionError as error:
        if str(error).startswith(sample):  # the name of one of its regions
            raise
        raise RegionError(f"{sample}: {error}") from error
