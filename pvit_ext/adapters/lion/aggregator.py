"""LION's vision aggregator: the late layer of the vision tower asks the middle one, then the early one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.adapters.lion.tower_layers import TowerLayers
from pvit_ext.ops.varlen_attention import varlen_cross_attention

_STD = 0.02
_BLOCK_EPS = 1e-12


def aggregator_for(tower_config: Any, hidden_size: int, depths: str | None, appended: bool) -> VisionAggregator:
    """The aggregator of a vision tower, with as many attention heads as the tower has.

    Args:
        tower_config: see :meth:`~pvit_ext.adapters.lion.tower_layers.TowerLayers.of`.
        hidden_size: D, width of the language model.
        depths: see :func:`~pvit_ext.adapters.lion.tower_layers.layers_at`.
        appended: see :class:`VisionAggregator`.

    Raises:
        ValueError: for a tower that neither offers layers nor is made of layers of one width with attention heads.
    """
    tower = TowerLayers.of(tower_config)
    part = VisionAggregator(tower.width, hidden_size, tower.read_at(depths), tower.heads, appended=appended)
    part.tower = tower
    return part


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
