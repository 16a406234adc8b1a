"""The layers of a vision tower that LION's aggregator reads, by fractions of the tower's depth."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any, NamedTuple

from pvit_ext.config import AGGREGATOR_DEPTHS

OFFERED = ("aggregator_layers", "aggregator_width", "aggregator_heads")
"""What the config of a registered vision tower says that offers layers: how many, C of all of them, attention heads."""
_ALL_OFFERED = ", ".join(OFFERED)
HOW_TO_OFFER = f"a registered vision tower writes hidden_layers(output), and says {_ALL_OFFERED} in its config"

logger = logging.getLogger(__name__)


def different_depths(tower_config: Any, depths: str | None) -> str | None:
    """The depths of a new aggregator, which name different layers of the vision tower.

    Args:
        tower_config: see :meth:`TowerLayers.of`.
        depths: that somebody said; None for the default, of which a small tower repeats layers.

    Returns:
        The same, or the default depths of different layers.

    Raises:
        ValueError: for depths that name a layer twice, and for a tower of one layer.
    """
    tower = TowerLayers.of(tower_config)
    if tower.layers - tower.first < 1:
        raise ValueError(
            "lion_aggregator lets one layer of the vision tower ask others, and this tower has a single layer: leave "
            "it out, or take another tower"
        )
    numbers = tower.numbers(depths)
    distinct = dict(zip(reversed(numbers), reversed((depths or AGGREGATOR_DEPTHS).split(",")), strict=True))
    if len(distinct) == len(numbers):
        return depths
    if depths is not None:
        layer = next(number for number in numbers if numbers.count(number) > 1)
        times = {2: "twice"}.get(numbers.count(layer), f"{numbers.count(layer)} times")
        raise ValueError(
            f"lion_aggregator_depths {depths!r} read layer {layer} of {tower.layers} {times}: give fractions that name "
            "different layers"
        )
    kept = ",".join(reversed(distinct.values()))
    text = "lion_aggregator_depths: of the default %s, a vision tower of %d layers reads some twice; it takes %s"
    logger.info(text, AGGREGATOR_DEPTHS, tower.layers, kept)
    return kept


class TowerLayers(NamedTuple):
    """What an aggregator needs to know of a vision tower.

    Args:
        layers: how many, without the embedding of patches.
        width: C.
        heads: attention heads.
        first: number of the first layer that can be read, 0 for the embedding of patches.
    """

    layers: int
    width: int
    heads: int
    first: int

    def numbers(self, depths: str | None) -> list[int]:
        """See :func:`layers_at`."""
        return [max(number, self.first) for number in layers_at(depths, self.layers)]

    def read_at(self, depths: str | None) -> list[int]:
        """The same layers, as numbers among those that the tower gives."""
        return [number - self.first for number in self.numbers(depths)]

    @classmethod
    def of(cls, config: Any) -> TowerLayers:
        """Those of a tower.

        Args:
            config: of it, in the names of CLIP's, or with those of :data:`OFFERED`, which are then read.

        Raises:
            ValueError: for a tower that neither offers layers nor is made of layers of one width with attention heads.
        """
        given = [name for name in OFFERED if getattr(config, name, None)]
        if given:
            if len(given) < len(OFFERED):
                said = ", ".join(given)
                raise ValueError(f"the vision tower's config says {said}: it has to say all of {_ALL_OFFERED}")
            layers, width, heads = [int(getattr(config, name)) for name in OFFERED]
            return cls(layers, width, heads, first=1)  # it offers no embedding of patches
        own = getattr(config, "num_attention_heads", None)
        if not own or hasattr(config, "feature_widths"):
            raise ValueError(
                "lion_aggregator reads several layers of one width of a vision tower, and "
                + ("there is none" if config is None else f"the config of this one names none: {HOW_TO_OFFER}")
            )
        return cls(config.num_hidden_layers, config.hidden_size, own, first=0)


def fractions_of(depths: str | None) -> list[float]:
    """The fractions of a vision tower's depth in ``lion_aggregator_depths``.

    Args:
        depths: the late one first, with commas between; None for the default.

    Raises:
        ValueError: for fewer than two, and for some that do not fall or lie outside 0..1.
    """
    try:
        parts = [float(part) for part in (AGGREGATOR_DEPTHS if depths is None else depths).split(",")]
    except ValueError:
        parts = []
    falling = all(late >= early for late, early in pairwise(parts))
    if len(parts) < 2 or not falling or not 0 <= parts[-1] <= parts[0] <= 1:
        raise ValueError(
            f"lion_aggregator_depths {depths!r}: give two or more fractions of the vision tower's depth between 1 and "
            f"0, the late one first, such as {AGGREGATOR_DEPTHS}"
        )
    return parts


def layers_at(depths: str | None, count: int) -> list[int]:
    """Numbers of hidden layers, 0 for the embedding of patches.

    Args:
        depths: see :func:`fractions_of`.
        count: the tower's layers, without the embedding.

    Raises:
        ValueError: as :func:`fractions_of` does.
    """
    return [round(part * count) for part in fractions_of(depths)]
