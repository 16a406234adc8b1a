"""LION's vision aggregator: the late layer of the vision tower asks the middle one, then the early one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.config import AGGREGATOR_DEPTHS
from pvit_ext.ops.varlen_attention import varlen_cross_attention

OFFERED = ("aggregator_layers", "aggregator_width", "aggregator_heads")
"""What the config of a registered vision tower says that offers layers: how many, C of all of them, attention heads."""
_ALL_OFFERED = ", ".join(OFFERED)
HOW_TO_OFFER = f"a registered vision tower writes hidden_layers(output), and says {_ALL_OFFERED} in its config"
logger = logging.getLogger(__name__)

_STD = 0.02
_BLOCK_EPS = 1e-12


def aggregator_for(tower_config: Any, hidden_size: int, depths: str | None, appended: bool) -> VisionAggregator:
    """The aggregator of a vision tower, with as many attention heads as the tower has.

    Args:
        tower_config: in the names of CLIP's, or with those of :data:`OFFERED`, which the aggregator then reads.
        hidden_size: D, width of the language model.
        depths: see :func:`layers_at`.
        appended: see :class:`VisionAggregator`.

    Raises:
        ValueError: for a tower that neither offers layers nor is made of layers of one width with attention heads.
    """
    tower = TowerLayers.of(tower_config)
    part = VisionAggregator(tower.width, hidden_size, tower.read_at(depths), tower.heads, appended=appended)
    part.tower = tower
    return part


def different_depths(tower_config: Any, depths: str | None) -> str | None:
    """The depths of a new aggregator, which name different layers of the vision tower.

    Args:
        tower_config: see :func:`aggregator_for`.
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
        """Those of a tower's config; see :func:`aggregator_for`."""
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


class VisionAggregator(nn.Module):
    """One row for each cell of the tower, made of several of its layers.

    Source: LION (arXiv 2311.11860), ``FusionAdapter``, ``ln_adapter`` and ``adapter_proj`` of its code: post-norm BERT
    layers with cross-attention, exact GELU, and a two-layer MLP behind them.

    Args:
        width: C of the tower.
        hidden_size: D of the language model.
        layers: numbers of the tower's hidden layers; the first asks each of the others in turn, a block each.
        heads: attention heads.
        inner: width of the blocks' MLP; LION's is BERT's 3072, which is 3 C for CLIP ViT-L, the default here.
        appended: rows stand behind an image's own and start at random, as LION has it; else they are added to the
            image's rows, and start at zero.

    Attributes:
        tower: that it was made for by :func:`aggregator_for`; tells which layers other depths would read.
    """

    tower: TowerLayers

    def __init__(
        self,
        width: int,
        hidden_size: int,
        layers: Sequence[int],
        heads: int = 16,
        inner: int | None = None,
        appended: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"vision aggregator: {width} channels do not divide into {heads} attention heads")
        self.layers, self.appended = tuple(layers), appended
        self.blocks = nn.ModuleList(Block(width, heads, inner or 3 * width) for _ in self.layers[1:])
        self.norm = nn.LayerNorm(width)
        self.rise, self.rows = nn.Linear(width, 4 * width), nn.Linear(4 * width, hidden_size)
        self.reset()

    def reset(self) -> None:
        """Values of a new module."""
        for block in self.blocks:
            block.reset()  # type: ignore[operator]
        for module in (self.norm, self.rise, self.rows):
            module.reset_parameters()
        if not self.appended:
            nn.init.zeros_(self.rows.weight)
            nn.init.zeros_(self.rows.bias)

    def forward(self, layers: Sequence[Tensor], cu_seqlens: Tensor, groups: Tensor | None = None) -> Tensor:
        """Rows (N, D) in the weights' dtype, one for each cell, or (R, D), one for each group of cells.

        Args:
            layers: (N, C) cells of all images, one image after the other, for each of :attr:`layers`.
            cu_seqlens: (B + 1,) integer, on the CPU: cells of image b are ``cu_seqlens[b]:cu_seqlens[b + 1]``.
            groups: (R, k) int64: the row of a group is the mean of its cells' rows.
        """
        late, *asked = (layer.to(self.norm.weight.dtype) for layer in layers)
        for block, layer in zip(self.blocks, asked, strict=True):
            late = block(late, layer, cu_seqlens)  # (N, C)
        raised = F.gelu(self.rise(self.norm(late)))  # (N, 4 C)
        if groups is not None:  # the last layer is linear: before it, the mean takes less
            raised = raised[groups].mean(1)  # (R, 4 C)
        rows: Tensor = self.rows(raised)
        return rows


class Block(nn.Module):
    """Self-attention, cross-attention to another layer and an MLP, each with its norm behind the residual sum."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.rise, self.fall = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=_BLOCK_EPS)

    def reset(self) -> None:
        """BERT's values, but all that writes into the residual stream is zero: a new block is three norms."""
        self.own.reset()
        self.cross.reset()
        _normal(self.rise)
        _zero(self.fall)
        self.norm.reset_parameters()

    def forward(self, x: Tensor, layer: Tensor, cu_seqlens: Tensor) -> Tensor:
        """x (N, C), layer (N, C) -> (N, C)."""
        x = self.own(x, x, cu_seqlens)
        x = self.cross(x, layer, cu_seqlens)
        out: Tensor = self.norm(x + self.fall(F.gelu(self.rise(x))))
        return out


class Attention(nn.Module):
    """Attention within each image, without a mask, its residual sum and norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width, eps=_BLOCK_EPS)

    def reset(self) -> None:
        """BERT's values, and a last layer of zeros."""
        for linear in (self.query, self.key, self.value):
            _normal(linear)
        _zero(self.out)
        self.norm.reset_parameters()

    def forward(self, x: Tensor, source: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Queries x (N, C), keys and values of source (N, C) -> (N, C)."""
        q, k, v = (
            linear(one).unflatten(1, (self.heads, -1))  # (N, heads, C / heads)
            for linear, one in ((self.query, x), (self.key, source), (self.value, source))
        )
        attended = varlen_cross_attention(q, k, v, cu_seqlens, cu_seqlens)
        out: Tensor = self.norm(x + self.out(attended.flatten(1)))
        return out


def _normal(linear: nn.Linear) -> None:
    nn.init.normal_(linear.weight, std=_STD)
    nn.init.zeros_(linear.bias)


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def dummy_rows(part: VisionAggregator) -> Tensor:
    """A row (1, D) of no image, for a batch that shows none: every rank has to run every module in every step."""
    weight: Tensor = part.norm.weight
    cell = torch.linspace(-1, 1, part.norm.normalized_shape[0], device=weight.device)[None]  # (1, C)
    rows: Tensor = part([cell] * len(part.layers), boundaries(1, 1))
    return rows


def boundaries(images: int, cells: int) -> Tensor:
    """``cu_seqlens`` (B + 1,) of images that have this many cells each."""
    return torch.arange(images + 1) * cells
