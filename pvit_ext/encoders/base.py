"""The region encoder contract, its registry, and :func:`build_region_encoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.weights import KeyMap, StateDict
from pvit_ext.ops.frozen import FrozenInEval
from pvit_ext.plugins import Registry
from pvit_ext.regions.region import RegionError, ResolvedRegion, Size
from pvit_ext.regions.view import View
from pvit_ext.value_types import check_types

ENTRY_POINT_GROUP = "pvit_ext.region_encoders"


@dataclass
class RegionInputs:
    """Everything an encoder may look at, for the M regions of one batch of B images.

    Args:
        regions: M of them, in the order of their placeholders.
        image_index: (M,) int64, the image each region lies on.
        image_sizes: B (width, height) of the upright originals.
        feature_maps: one (B, C_l, H_l, W_l) map per entry of the encoder's ``feature_layers``; a map of an ``anyres``
            image holds all its tiles. Where images have different views, smaller maps repeat their last cells up to
            the largest: see :meth:`rows_by_view_size`.
        views: B affines, original pixels -> the vision tower's pixels.
        extra: B outputs of the encoder's ``preprocess``; None where an image has no region.
        context_map: (B, C, H, W) of the layer that LLaVA reads, of base views, for cross layers; None without them.
        tower: LLaVA's vision tower, for encoders that let it look again.
    """

    regions: list[ResolvedRegion]
    image_index: Tensor
    image_sizes: list[Size]
    feature_maps: list[Tensor] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    extra: list[dict[str, Tensor] | None] = field(default_factory=list)
    context_map: Tensor | None = None
    tower: Any = None

    @cached_property
    def image_numbers(self) -> list[int]:
        """``image_index`` as numbers: read once, since each read of a GPU's tensor waits for all that was started."""
        numbers: list[int] = self.image_index.tolist()
        return numbers

    @cached_property
    def boxes(self) -> Tensor:
        """(M, 4) xyxy float32, original pixels."""
        boxes = [r.bounds(self.image_sizes[i]) for r, i in zip(self.regions, self.image_numbers, strict=True)]
        return torch.tensor(boxes, dtype=torch.float32, device=self.image_index.device).reshape(-1, 4)  # (M, 4)

    @cached_property
    def boxes_norm(self) -> Tensor:
        """(M, 4) xyxy float32, 0..1 of the original image."""
        sizes = torch.tensor(self.image_sizes, dtype=torch.float32, device=self.boxes.device).reshape(-1, 2)
        return self.boxes / sizes[self.image_index].repeat(1, 2)  # (M, 4)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """The mask of a region, bool (H, W) of the original image; not cached: 500 masks of a photograph are 6 GB."""
        return self.regions[number].to_mask(self.image_sizes[self.image_numbers[number]])

    @cached_property
    def tower_boxes(self) -> Tensor:
        """(M, 4) xyxy float32 in the vision tower's pixels, clipped to what the tower sees.

        Raises:
            RegionError: when the tower's view crops a region away entirely.
        """
        views = [self.views[image] for image in self.image_numbers]
        affine = [[*view.scale * 2, *view.shift * 2, *view.size * 2] for view in views]
        scale, shift, limit = torch.tensor(affine, dtype=torch.float64).reshape(-1, 3, 4).unbind(1)  # (M, 4) each
        clipped = torch.minimum((self.boxes.cpu().double() * scale + shift).clamp(min=0), limit).float()  # (M, 4)
        for number in (clipped[:, 2:] <= clipped[:, :2]).any(1).nonzero().flatten().tolist():
            raise self.cropped_away(number, f"the region {self.boxes[number].tolist()}")
        return clipped.to(self.boxes.device)

    def cropped_away(self, number: int, what: str) -> RegionError:
        """The error of a region that the vision tower's view does not show."""
        image = self.image_numbers[number]
        name, (width, height) = self.regions[number].name, self.views[image].size
        return RegionError(
            f"{name}, image {image} of the batch: the tower's {width}x{height} view crops {what} away; "
            "use image_aspect_ratio=pad (with transformers' LLaVA a processor with do_pad), or an encoder with a view "
            "of its own (regionclip)"
        )

    def rows_by_view_size(self) -> dict[Size, Tensor]:
        """(width, height) of a view -> the regions (N,) int64 on such views; for encoders that mix a map's cells."""
        sizes = [self.views[image].size for image in self.image_numbers]
        regions = {size: [n for n, other in enumerate(sizes) if other == size] for size in dict.fromkeys(sizes)}
        return {size: torch.tensor(found, device=self.image_index.device) for size, found in regions.items()}


class RegionEncoder(FrozenInEval):
    """Turns M regions into (M, T, C) features; subclass it and register it.

    An encoder is deterministic and batch-invariant: a region's features do not depend on what else is in the batch.
    Coordinates stay float32 under any autocast. An encoder that trains runs each of its modules equally often in every
    batch, or as often as :func:`~pvit_ext.distributed.most_passes` says.

    Attributes:
        name: registered name.
        region_kinds: kinds it accepts.
        frozen: a pre-trained tower that no stage trains.
        feature_layers: hidden layers of the vision tower it reads (numbered as in ``hidden_states``).
        reads_tiles: it gets the map of all tiles of an ``anyres`` image; if false, that of the base view, a square.
        tokens_per_region: T; 0 for an encoder that shows regions by :meth:`describe` and :meth:`paint` alone, whose
            :meth:`forward` never runs.
        feature_dim: C.
        keys: map of the original's state-dict keys to ours; None if there is no original whose weights could be loaded.
        weights_from: where a user finds the file of a frozen tower, for the message that it is missing.
    """

    name: ClassVar[str]
    region_kinds: ClassVar[frozenset[str]] = frozenset({"box", "mask", "point", "polygon", "scribble"})
    frozen: ClassVar[bool] = False
    weights_from: ClassVar[str] = ""
    feature_layers: tuple[int, ...] = ()
    reads_tiles: bool = True
    tokens_per_region: int = 1
    feature_dim: int
    keys: KeyMap | None = None

    @property
    def needs_pixels(self) -> bool:
        """Whether it reads the image itself, see :meth:`preprocess`."""
        return type(self).preprocess is not RegionEncoder.preprocess

    @property
    def paints(self) -> bool:
        """Whether the vision tower sees another image than the original, see :meth:`paint`."""
        return type(self).paint is not RegionEncoder.paint

    @property
    def can_train(self) -> bool:
        """Whether its class trains, which decides about its mode."""
        return not self.frozen

    def check_kinds(self, regions: Sequence[ResolvedRegion]) -> None:
        """Refuse a kind that is not among :attr:`region_kinds`.

        Raises:
            RegionError: naming the region.
        """
        for region in regions:
            if region.kind not in self.region_kinds:
                known = ", ".join(sorted(self.region_kinds))
                raise RegionError(f"{region.name}: the encoder {self.name!r} takes {known}, this is a {region.kind}")

    def check_extra(
        self,
        regions: Sequence[ResolvedRegion],
        image_index: Sequence[int],
        extra: Sequence[dict[str, Tensor] | None] | None,
    ) -> None:
        """Refuse a batch without the output of :meth:`preprocess`, where the encoder has one.

        Args:
            regions: M of them.
            image_index: the image of the batch that each lies on.
            extra: output of :meth:`preprocess` for each image.

        Raises:
            RegionError: naming the region.
        """
        if not self.needs_pixels:
            return
        for image, region in zip(image_index, regions, strict=True):
            if extra is None or image >= len(extra) or not extra[image]:
                raise RegionError(
                    f"{region.name}, image {image} of the batch: the encoder {self.name!r} needs its own pixels; pass "
                    "region_extra=, per image of the batch encoder.preprocess(image, regions on it), or None where no "
                    "region lies (pvit_ext.ask and the training data do so)"
                )

    def preprocess(self, image: Image.Image, regions: list[ResolvedRegion]) -> dict[str, Tensor]:
        """Tensors this encoder needs beyond the tower's features, made in data workers.

        Args:
            image: upright RGB original.
            regions: on this image.
        """
        return {}

    def describe(self, regions: Sequence[ResolvedRegion], sizes: Sequence[Size]) -> list[str]:
        """The text that stands for each region in the prompt, if T = 0.

        Args:
            regions: of one sample.
            sizes: (width, height) of its images.
        """
        raise NotImplementedError

    def paint(self, image: Image.Image, regions: Sequence[ResolvedRegion]) -> Image.Image:
        """The image that the vision tower sees instead; called in data workers, before its preprocessing.

        Args:
            image: upright RGB original.
            regions: on this image.
        """
        return image

    def dummy_extra(self) -> dict[str, Tensor]:
        """Cheapest valid output of :meth:`preprocess`, for a rank whose batch has no region (16x16 px, box 4..12)."""
        return {}

    def load_weights(self, path: str) -> None:
        """Load the encoder's own checkpoint file, alone or inside that of a whole model, by :attr:`keys`.

        Raises:
            ValueError: unless all tensors fit.
        """
        self._key_map(path).load(self, path)

    def original_state_dict(self) -> StateDict:
        """The weights under the original's names."""
        return self._key_map("its names").to_original(self.state_dict())

    def _key_map(self, wanted: str) -> KeyMap:
        if self.keys is None:
            raise ValueError(f"region encoder {self.name!r} has no weights of its own, got {wanted!r}")
        return self.keys

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Region features (M, T, C); M may be 0."""
        raise NotImplementedError


Builder = Callable[[RegionConfig, Any], RegionEncoder]
BuilderT = TypeVar("BuilderT", bound=Callable[..., RegionEncoder])
REGION_ENCODERS: Registry[Builder] = Registry("region encoder", ENTRY_POINT_GROUP)


def register_region_encoder(name: str) -> Callable[[BuilderT], BuilderT]:
    """Register a builder ``(RegionConfig, tower config) -> RegionEncoder`` (a class will do) under a name.

    Raises:
        ValueError: if the name is taken.
    """
    return REGION_ENCODERS.register(name)


def region_encoder_names() -> list[str]:
    """All names that :func:`build_region_encoder` accepts, registered here or by entry point."""
    return REGION_ENCODERS.names()


def build_region_encoder(config: RegionConfig, tower_config: Any = None) -> RegionEncoder:
    """Build the encoder a config names; weights are not loaded here.

    Args:
        config: with ``encoder`` and ``encoder_options``; the encoder gets it with defaults for what it does not say.
        tower_config: config of LLaVA's vision tower, for encoders that read its features.

    Raises:
        ValueError: for an unknown name, with the known ones, or options that cannot apply to the encoder.
    """
    check_types(RegionConfig, vars(config), "region config")  # an encoder reads its options at once
    encoder = REGION_ENCODERS.require(config.encoder)(config.decided(), tower_config)
    config.resolved(encoder.tokens_per_region)  # raises
    return encoder
