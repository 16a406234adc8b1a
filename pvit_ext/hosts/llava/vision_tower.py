"""Vision towers other than LLaVA's CLIP: registered by name, kept in checkpoints, trained if they want.

LLaVA's own builder knows CLIP only, and its tower can neither train (it runs under ``no_grad``) nor be read from a
checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from pvit_ext.adapters.lion.tower_layers import HOW_TO_OFFER, OFFERED
from pvit_ext.distributed import gathered
from pvit_ext.ops.frozen import FrozenInEval
from pvit_ext.plugins import FLAG, Registry

logger = logging.getLogger(__name__)


class VisionTower(FrozenInEval):
    """What LLaVA asks of a vision tower; subclass it and register it.

    A subclass makes ``vision_tower``, ``image_processor`` and ``config`` in ``__init__``, with random weights, and
    writes :meth:`load_pretrained`, :meth:`features` and, for region encoders, :meth:`feature_maps`; for a vision
    aggregator also :meth:`hidden_layers`. It keeps no bare parameter outside ``vision_tower``.

    Args:
        name: what ``--vision_tower`` or the checkpoint's config says: the registered name, and perhaps ``:`` and an
            argument such as a path.
        args: LLaVA's config or model arguments.

    Attributes:
        frozen: no stage trains it; else stage ``finetune`` does, without LoRA.
        vision_tower: module whose forward takes pixels (B, 3, H, W).
        image_processor: with ``preprocess``, ``crop_size``, ``size`` and ``image_mean`` as CLIP's has them.
        config: at least ``hidden_size``, ``image_size``, ``patch_size`` and ``num_hidden_layers``. A pyramid of maps
            has ``feature_widths`` and ``feature_strides`` (pixels per cell), one entry per map. A tower that offers
            hidden layers has ``aggregator_layers`` (how many), ``aggregator_width`` (C) and ``aggregator_heads``
            (attention heads, which divide C).
        select_layer: index among the feature maps of the one that cross layers of the region projector look at.
    """

    frozen: ClassVar[bool] = False
    vision_tower: nn.Module
    image_processor: Any
    config: Any
    select_layer: int = -1

    def __init__(self, name: str, args: Any) -> None:
        super().__init__()
        self.vision_tower_name, self.is_loaded = name, False

    @property
    def argument(self) -> str:
        """What stands behind ``:`` in the name."""
        return self.vision_tower_name.partition(":")[2]

    def load_pretrained(self) -> None:
        """Fill the modules with their pre-trained weights; not called where a checkpoint holds the tower's tensors."""
        raise NotImplementedError

    def features(self, output: Any) -> Tensor:
        """Patch features (B, P, hidden_size) for LLaVA's projector, of ``vision_tower``'s output; P is a square."""
        raise NotImplementedError

    def feature_maps(self, output: Any) -> list[Tensor]:
        """Maps (B, C_l, H_l, W_l) that region encoders may read; by default the patch features, as one map."""
        features = self.features(output)
        side = math.isqrt(features.shape[1])
        return [features.transpose(1, 2).unflatten(2, (side, side))]

    def hidden_layers(self, output: Any) -> list[Tensor]:
        """Layers (B, P, C) or (B, C, H, W), early to late, on the grid of :meth:`features`, for a vision aggregator.

        Optional: ``config`` says whether there are any. Of ``vision_tower``'s output alone, which a cache stores.
        """
        raise NotImplementedError(f"the config of {self.vision_tower_name!r} names hidden layers: {HOW_TO_OFFER}")

    def load_model(self, device_map: Any = None) -> None:
        """LLaVA's call for the weights; those of a checkpoint stay."""
        if not self.is_loaded:
            with gathered(list(self.parameters()), write=True):
                self.load_pretrained()
            self.is_loaded = True

    def forward(self, images: Tensor) -> Tensor:
        """Patch features (B, P, hidden_size) of pixels (B, 3, H, W), with gradients."""
        return self.features(self.vision_tower(images.to(self.device, self.dtype))).to(images.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The weights' device."""
        return next(self.parameters()).device

    @property
    def hidden_size(self) -> int:
        """Width of the patch features."""
        return int(self.config.hidden_size)

    @property
    def num_patches_per_side(self) -> int:
        """Cells per side of the grid of patch features."""
        return int(self.config.image_size // self.config.patch_size)

    @property
    def num_patches(self) -> int:
        """P."""
        return self.num_patches_per_side**2

    @property
    def dummy_feature(self) -> Tensor:
        """(1, hidden_size) zeros."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)


def check_offers(tower: Any) -> None:
    """Refuse a vision aggregator on a registered tower that offers no hidden layers.

    Args:
        tower: of any kind; LLaVA's CLIP has them.

    Raises:
        ValueError: naming the tower.
    """
    if not hasattr(tower, "feature_maps"):
        return
    names_some = any(getattr(tower.config, name, None) for name in OFFERED)  # aggregator_for asks for all of them
    if not names_some or getattr(type(tower), "hidden_layers", None) in (None, VisionTower.hidden_layers):
        raise ValueError(
            f"the vision aggregator reads hidden layers, and the registered tower {tower.vision_tower_name!r} shows "
            f"maps of its own alone: leave lion_aggregator out, or let the tower offer them: {HOW_TO_OFFER}"
        )


def offered_layers(tower: VisionTower, output: Any) -> list[Tensor]:
    """A tower's :meth:`~VisionTower.hidden_layers` as maps (B, C, H, W).

    Args:
        tower: that offers them.
        output: of its ``vision_tower``.

    Raises:
        ValueError: for layers other than the tower's config and its grid of patch features have.
    """
    found, side = tower.hidden_layers(output), tower.num_patches_per_side
    count, width = tower.config.aggregator_layers, tower.config.aggregator_width
    fitting = ((side**2, width), (width, side, side))
    if len(found) != count or any(tuple(one.shape[1:]) not in fitting for one in found):
        shapes = ", ".join(str(tuple(one.shape)) for one in found) or "none"
        raise ValueError(
            f"hidden_layers() of the registered tower {tower.vision_tower_name!r} gave {len(found)} layers of shapes "
            f"{shapes}: by its config they are {count}, each (B, {side**2}, {width}) or (B, {width}, {side}, {side}), "
            "a row for each image token"
        )
    return [one if one.ndim == 4 else one.transpose(1, 2).unflatten(2, (side, side)) for one in found]


TowerT = TypeVar("TowerT", bound=Callable[..., VisionTower])
VISION_TOWERS: Registry[Callable[..., VisionTower]] = Registry("vision tower", "pvit_ext.vision_towers")


def register_vision_tower(name: str) -> Callable[[TowerT], TowerT]:
    """Register a builder ``(name, LLaVA's config or arguments) -> VisionTower`` (a class will do) under a name.

    Raises:
        ValueError: if the name is taken.
    """
    return VISION_TOWERS.register(name)


def registered_tower(args: Any) -> VisionTower | None:
    """The registered tower that LLaVA's config or arguments name, without its weights; None where they name none."""
    name = getattr(args, "mm_vision_tower", None) or getattr(args, "vision_tower", None)
    if not isinstance(name, str) or (builder := VISION_TOWERS.find(name.partition(":")[0])) is None:
        return None
    tower = builder(name, args)
    return tower.requires_grad_(not tower.frozen)


def of_a_plugin(name: str) -> str:
    """What to do about a tower of a name that is nobody's here, to stand behind what was said of it."""
    known = ", ".join(VISION_TOWERS.names()) or "none"
    return f"if {name!r} is the vision tower of a plug-in, {FLAG} MODULE imports it; registered now: {known}"


def finish_tower(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Leave a registered tower the weights that ``from_pretrained`` found, or load its pre-trained ones.

    transformers makes models on the meta device. transformers 5 leaves buffers there that no checkpoint keeps, 4.36 and
    4.37 leave all that they did not find. These are made once more.

    Args:
        model: with such a tower.
        missing: names of the tensors that were not found.
        checkpoint: for messages.

    Raises:
        ValueError: listing what is missing, when some of the tower's tensors are there.
    """
    tower: VisionTower = model.get_vision_tower()
    prefix = f"{model.base_model_prefix}.vision_tower."
    own = {f"{prefix}{name}" for name, _ in tower.named_parameters()}
    absent = sorted(name for name in missing if name.startswith(prefix))
    if absent and not own <= {*absent}:
        raise ValueError(f"{checkpoint} holds its vision tower, but lacks {absent}: get the complete checkpoint")
    if any(one.is_meta for one in tower.parameters()):
        _make_real(tower, model.config)
    if volatile := _volatile(tower):
        fresh = registered_tower(model.config)
        assert fresh is not None
        for name, value in volatile.items():
            value.copy_(fresh.get_buffer(name))
    if absent:
        logger.info("%s does not hold its vision tower: %s loads its own weights", checkpoint, tower.vision_tower_name)
        tower.load_model()
    tower.is_loaded = True
    tower.requires_grad_(not tower.frozen)


def _make_real(tower: VisionTower, config: Any) -> None:
    """Give a tower on the meta device memory, and the values that a new one begins with."""
    fresh = registered_tower(config)
    assert fresh is not None
    tower.to_empty(device="cpu").load_state_dict(fresh.state_dict())


def match_trained_tower(model: Any) -> None:
    """Give a tower that trains the language model's dtype: without ``--bf16`` LLaVA makes every tower float16."""
    tower = model.get_vision_tower()
    if any(parameter.requires_grad for parameter in tower.parameters()):
        tower.to(model.lm_head.weight.dtype)


def _volatile(tower: nn.Module) -> dict[str, Tensor]:
    """Buffers that are in no state dict."""
    kept = tower.state_dict()
    return {name: value for name, value in tower.named_buffers() if name not in kept}
