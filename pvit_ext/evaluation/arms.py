"""Ways to show a model which region is meant, and which of them a checkpoint was trained for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.encoders.options import read_options
from pvit_ext.encoders.overlay import Overlay, OverlayOptions
from pvit_ext.encoders.text import Text, TextOptions
from pvit_ext.prompt import REGION_PLACEHOLDER
from pvit_ext.regions.image import reading
from pvit_ext.regions.region import ResolvedRegion, Size
from pvit_ext.tokens.query import Query
from pvit_ext.tokens.resolving import naming

REGIONS, IMAGE, TEXT, MARKS = "regions", "image", "text", "marks"
FEATURES, FEATURES_BOX = "features", "features-box"
TOKENS = (REGIONS, FEATURES, FEATURES_BOX)
"""Arms of region tokens."""
ARMS = {
    REGIONS: "what the checkpoint's region encoder makes of them",
    FEATURES: "as region tokens without an embedding of their box",
    FEATURES_BOX: "as region tokens with an embedding of their box",
    IMAGE: "not at all: the image only",
    TEXT: "as coordinates in the question",
    MARKS: "as marks drawn on the image, and named in the question",
}
WORDS = "the object"
"""What stands for a region where a model is not shown it."""


@dataclass(frozen=True)
class Shown:
    """A sample as an arm shows it.

    Args:
        query: to be asked.
        regions: resolved, in the order of their placeholders; the query has them only in an arm of :data:`TOKENS`.
        sizes: (width, height) of each image.
    """

    query: Query
    regions: list[ResolvedRegion]
    sizes: list[Size]

    @property
    def areas(self) -> tuple[float, ...]:
        """Of each region, pixels of its image."""
        return tuple(_area(region, self.sizes[region.image]) for region in self.regions)


class Arm:
    """One way of showing regions.

    Args:
        name: of :data:`ARMS`.
        config: of the checkpoint's region modules, None without any; its options for text and marks are used.
        words: what stands for a region in the arm ``image``.

    Raises:
        ValueError: for an unknown name.
    """

    def __init__(self, name: str, config: RegionConfig | None = None, words: str = WORDS) -> None:
        if name not in ARMS:
            raise ValueError(f"there is no arm {name!r}; known: {', '.join(ARMS)}")
        self.name, self.words = name, words
        self.encoder = _encoder(name, config)

    @property
    def about(self) -> str:
        """What it does, as the end of "regions are shown ..."."""
        return ARMS[self.name]

    def values(self) -> dict[str, Any]:
        """What its prompts and images depend on, in plain JSON types."""
        options = getattr(self.encoder, "options", None)
        found = {"arm": self.name, "options": None if options is None else asdict(options)}
        return found | ({"words": self.words} if self.name == IMAGE else {})

    def prepare(self, model: Any) -> None:
        """Bring a loaded model to this arm: ``features`` takes the embedding of boxes away.

        Args:
            model: of either host.
        """
        if self.name == FEATURES:
            model.region_module.region_projector.box_embedding = None

    def show(self, query: Query, name: str) -> Shown:
        """A query as this arm has it; images are read only where they are drawn on.

        Args:
            query: with its regions.
            name: of the sample, for messages.

        Raises:
            RegionError: naming the sample, for an image that cannot be read or a region that does not fit it.
        """
        with reading(name):
            sizes = query.image_sizes()
        given = query.all_regions(name)
        regions = [one.resolve(sizes[one.image], f"{name}, region {k}") for k, one in enumerate(given)]
        if self.name in TOKENS:
            return Shown(replace(query, regions=regions), regions, sizes)
        with naming(name):
            words = self.encoder.describe(regions, sizes) if self.encoder and regions else [self.words] * len(regions)
        history, question = _written([*(text for turn in query.history for text in turn), query.text], words)
        image = query.image
        if self.name == MARKS and regions:
            assert self.encoder is not None
            with reading(name):
                image = _painted(query, regions, self.encoder.paint)
        turns = list(zip(history[::2], history[1::2], strict=True))
        return Shown(replace(query, image=image, text=question, regions=[], history=turns), regions, sizes)


def native_arm(config: RegionConfig | None) -> str:
    """The arm that a checkpoint was trained for.

    Args:
        config: of its region modules; None without any.
    """
    if config is None:
        return IMAGE
    return {Text.name: TEXT, Overlay.name: MARKS}.get(config.encoder, REGIONS)


def check_arm(asked: str | None, config: RegionConfig | None, model: str) -> tuple[str, str | None]:
    """The arm to run, and what to say about it.

    Args:
        asked: by name; None for ``regions``.
        config: of the checkpoint's region modules; None without any.
        model: its name.

    Returns:
        the arm, and a sentence where the checkpoint was not trained for it.

    Raises:
        ValueError: when nothing was asked for and the checkpoint has no regions, or when it cannot take the arm.
    """
    native = native_arm(config)
    arm = asked or REGIONS
    if config is None and arm in TOKENS:
        raise ValueError(
            f"{model} has no region encoder, so it was not trained for the arm {arm!r}: name another arm (--arm "
            f"{IMAGE}, {TEXT} or {MARKS}), or a checkpoint with regions"
        )
    if config is not None and arm in (FEATURES, FEATURES_BOX):
        return arm, _check_features(arm, native, config, model)
    if arm in (native, REGIONS):
        return arm, None
    return arm, f"{model} was trained for the arm {native!r}, not for {arm!r}, which was asked for by name."


def _check_features(arm: str, native: str, config: RegionConfig, model: str) -> str | None:
    """What to say about an arm that says whether boxes have an embedding."""
    if native != REGIONS:
        raise ValueError(f"{model} has no region tokens, but the arm {native!r}: --arm {arm} cannot apply")
    if arm == FEATURES_BOX and not config.box_embedding:
        raise ValueError(
            f"{model} has no embedding of boxes (--region_box_embedding of its training): --arm {arm} cannot apply"
        )
    if arm == FEATURES and config.box_embedding:
        return f"{model} was trained with an embedding of boxes, which the arm {arm!r} takes away."
    return None


def _encoder(name: str, config: RegionConfig | None) -> RegionEncoder | None:
    own = config.encoder_options if config is not None else {}
    encoder = config.encoder if config is not None else None
    if name == TEXT:
        return Text(read_options(TextOptions, own if encoder == Text.name else {}, Text.name))
    if name == MARKS:
        return Overlay(read_options(OverlayOptions, own if encoder == Overlay.name else {}, Overlay.name))
    return None


def _written(texts: Sequence[str], words: Sequence[str]) -> tuple[list[str], str]:
    """The texts with words for their regions: all but the last, and the last."""
    each = iter(words)
    found = [re.sub(re.escape(REGION_PLACEHOLDER), lambda _: next(each), text) for text in texts]
    return found[:-1], found[-1]


def _painted(query: Query, regions: Sequence[ResolvedRegion], paint: Callable[..., Any]) -> list[Any]:
    images = query.load_images()
    return [paint(image, [one for one in regions if one.image == number]) for number, image in enumerate(images)]


def _area(region: ResolvedRegion, size: Size) -> float:
    """Pixels: of a mask or outline those in it, else those of its box."""
    if region.kind in ("mask", "polygon"):
        return float(region.to_mask(size).sum())
    x0, y0, x1, y1 = region.bounds(size)
    return (x1 - x0) * (y1 - y0)
