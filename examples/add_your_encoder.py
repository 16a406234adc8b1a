"""A region encoder of your own, in a package of your own: the whole of it.

Beside this file the package needs an entry point, in its ``pyproject.toml``::

    [project.entry-points."pvit_ext.region_encoders"]
    average = "add_your_encoder:Average"

Once it is installed, ``pvit_ext.attach(model, RegionConfig(encoder="average"))``, ``pvit-ext swap``, ``pvit-ext
compare`` and the recipes (``REGION_ENCODER=average deepspeed recipes/stage1.sh``) know it by name.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from pvit_ext import RegionConfig, RegionEncoder, RegionInputs
from pvit_ext.ops.roi_align import roi_align


class Average(RegionEncoder):
    """One token: the mean of the vision tower's features in a box, through a layer that both stages train.

    Args:
        config: with ``encoder_options``; this encoder has one, ``layer``.
        tower_config: of LLaVA's vision tower.
    """

    name: ClassVar[str] = "average"
    region_kinds: ClassVar[frozenset[str]] = frozenset({"box"})  # a mask or point is refused, not taken by its box

    def __init__(self, config: RegionConfig, tower_config: Any) -> None:
        super().__init__()
        self.feature_layers = ((config.encoder_options or {}).get("layer", -2),)  # of the tower's hidden states
        self.feature_dim, self.patch = tower_config.hidden_size, tower_config.patch_size
        self.linear, self.norm = nn.Linear(self.feature_dim, self.feature_dim), nn.LayerNorm(self.feature_dim)

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, 1, C) of the M regions of a batch."""
        boxes = inputs.tower_boxes / self.patch  # (M, 4) in cells of the feature map, which is (B, C, H, W)
        pooled = roi_align(inputs.feature_maps[0], boxes, inputs.image_index, 7, 1.0).mean((2, 3))  # (M, C)
        features: Tensor = self.norm(self.linear(pooled.to(self.linear.weight.dtype)))
        return features[:, None]
