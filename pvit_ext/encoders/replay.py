"""RoI-aligned feature replay: a region's tokens are the vision tower's own features, resampled on a grid in its box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.encoders.coverage import mask_coverage
from pvit_ext.encoders.options import builder, check_layers
from pvit_ext.encoders.weights import KeyMap
from pvit_ext.ops.roi_align import roi_align


@dataclass(frozen=True)
class ReplayOptions:
    """Sizes of the replay.

    Args:
        grid: cells per side of the replayed grid; T is its square, the original has 16.
        sampling_ratio: RoIAlign samples per cell and axis.
        layer: hidden layer of the vision tower to read.
        stride: view pixels per cell of the feature map; the tower's patch size by default.
        projection: C of a GELU MLP over the map before the replay, as in the original; None replays the tower's map.
        shape: add an embedding of the mask's coverage of each token's cell.
        legacy_geometry: scale boxes to cells twice, as the original does; the grid then lies at the map's top left.
    """

    grid: int = 16
    sampling_ratio: int = 2
    layer: int = -2
    stride: float | None = None
    projection: int | None = None
    shape: bool = True
    legacy_geometry: bool = False


class Replay(RegionEncoder):
    """T = grid * grid tokens per region, row by row of its box.

    The original marks regions by a mask embedding at the input of its tower. LLaVA's tower runs without knowing the
    regions; here an embedding of the coverage is added to the tokens instead. Both are zero at the start.

    Source: Grasp Any Region (arXiv 2510.18876).

    Args:
        options: sizes.
        tower_config: of the vision tower, for its width and patch size.
    """

    name: ClassVar[str] = "replay"

    def __init__(self, options: ReplayOptions, tower_config: Any) -> None:
        super().__init__()
        if options.grid < 1 or options.sampling_ratio < 0:
            raise ValueError(f"replay needs a grid of 1 or more and no negative sampling_ratio, got {options}")
        self.options, self.stride = options, options.stride or float(tower_config.patch_size)
        self.feature_layers = check_layers((options.layer,), tower_config)
        self.tokens_per_region = options.grid**2
        width = tower_config.hidden_size
        self.feature_dim = options.projection or width
        self.projection = (
            nn.Sequential(nn.Linear(width, self.feature_dim), nn.GELU(), nn.Linear(self.feature_dim, self.feature_dim))
            if options.projection
            else None
        )
        self.shape = nn.Linear(1, self.feature_dim, bias=False) if options.shape else None
        if self.shape is not None:
            nn.init.zeros_(self.shape.weight)
        self.keys = KeyMap("multi_modal_projector", (("linear_1.", "0."), ("linear_2.", "2.")))

    def load_weights(self, path: str) -> None:
        """Load the original's projector, alone or inside a whole checkpoint.

        Raises:
            ValueError: without a projection to load into, or unless all tensors fit.
        """
        if self.projection is None:
            raise ValueError(f"replay has no weights to load from {path!r} without the option projection=<width>")
        self._key_map(path).load(self.projection, path)

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, T, C) of the feature map's dtype, or of the projection's.

        Args:
            inputs: with one feature map (B, hidden, H, W), and ``views``.

        Raises:
            RegionError: naming a region that the tower's view crops away.
        """
        (feature_map,) = inputs.feature_maps
        if self.projection is not None:
            cells = feature_map.permute(0, 2, 3, 1).to(next(self.projection.parameters()).dtype)
            feature_map = self.projection(cells).permute(0, 3, 1, 2)  # (B, C, H, W), channels-last
        boxes = (inputs.tower_boxes / self.stride).to(feature_map.device)  # (M, 4), cells
        index, scale = (
            inputs.image_index.to(feature_map.device),
            1 / self.stride if self.options.legacy_geometry else 1.0,
        )
        pooled = roi_align(feature_map, boxes, index, self.options.grid, scale, self.options.sampling_ratio)
        tokens = pooled.flatten(2).transpose(1, 2)  # (M, T, C)
        if self.shape is None:
            return tokens
        coverage = mask_coverage(inputs, self.options.grid).flatten(1)[..., None]  # (M, T, 1)
        return tokens + self.shape(coverage.to(feature_map.device, self.shape.weight.dtype)).to(tokens.dtype)


build = builder(Replay, ReplayOptions)
