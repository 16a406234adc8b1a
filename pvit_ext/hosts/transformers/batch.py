"""The regions of a batch, as the region processor hands them to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.hosts.base import HiddenStates, ImageViews
from pvit_ext.hosts.transformers.feature_maps import gather_maps
from pvit_ext.hosts.transformers.host import TransformersHost
from pvit_ext.regions.region import Region, RegionError, ResolvedRegion, Size
from pvit_ext.regions.view import View
from pvit_ext.tokens.given_regions import read_sizes

Extra = Sequence[dict[str, Tensor] | None]
_DUMMY_SIDE = 16


@dataclass(frozen=True)
class RegionBatch:
    """Regions of the samples of a batch, and the B images that they lie on.

    Args:
        regions: of each sample, in the order of their placeholders; ``image`` counts the images of the batch.
        sizes: B (width, height) of the upright originals.
        views: B, what the vision tower sees.
        extra: B outputs of the encoder's ``preprocess``; None where an image has no region.
    """

    regions: list[list[ResolvedRegion]]
    sizes: list[Size]
    views: list[ImageViews]
    extra: list[dict[str, Tensor] | None]

    @classmethod
    def of(
        cls,
        regions: Sequence[Sequence[Region] | None],
        sizes: Sequence[Size] | None,
        views: Sequence[ImageViews] | None,
        extra: Extra | None,
    ) -> RegionBatch:
        """Check what the model was called with.

        Raises:
            RegionError: for what the region processor did not make.
        """
        sizes = read_sizes(sizes, "region_sizes")
        if sizes is None or views is None or len(sizes) != len(views):
            raise RegionError(
                "regions were given without their images' region_sizes and region_views: pass all that "
                "RegionProcessor returns, model(**processor(images=..., text=..., regions=...))"
            )
        per_sample = [
            [_checked(region, sizes, f"sample {sample}, region {number}") for number, region in enumerate(own or ())]
            for sample, own in enumerate(regions)
        ]
        shown = [ImageViews(*one) for one in views]  # plain tuples once the batch was moved to a device
        return cls(per_sample, sizes, shown, list(extra or [None] * len(sizes)))

    @property
    def counts(self) -> list[int]:
        """Regions of each sample."""
        return [len(own) for own in self.regions]

    @property
    def flat(self) -> list[ResolvedRegion]:
        """The M regions."""
        return [region for own in self.regions for region in own]


def _checked(region: Region, sizes: Sequence[Size], name: str) -> ResolvedRegion:
    if not isinstance(region, ResolvedRegion):
        raise RegionError(f"{name}: {region} is not resolved; RegionProcessor(...)(regions=...) does so")
    if not 0 <= region.image < len(sizes):
        raise RegionError(f"{region.name}: lies on image {region.image}, the batch has {len(sizes)} image(s)")
    return region.resolve(sizes[region.image])  # raises for an image of another size


def build_inputs(
    host: TransformersHost,
    encoder: RegionEncoder,
    crosses: bool,
    batch: RegionBatch,
    inputs: dict[str, object],
    hidden: HiddenStates | None,
    device: torch.device,
) -> RegionInputs:
    """What the encoder sees of a batch with regions.

    Args:
        host: the model.
        encoder: that will get them.
        crosses: the region projector has cross layers.
        batch: the regions.
        inputs: keyword arguments of the model's forward.
        hidden: of the vision tower.
        device: of the region modules.

    Raises:
        RegionError: when there are no images, or the encoder's own input is missing.
    """
    if hidden is None:
        raise RegionError("regions were given, but no images: pass pixel_values, as the processor returns them")
    flat = batch.flat
    encoder.check_kinds(flat)
    encoder.check_extra(flat, [region.image for region in flat], batch.extra)
    tiled = encoder.reads_tiles and any(one.tiles for one in batch.views)
    cells = _cells(host, inputs, hidden, batch.views, False)
    grids = _cells(host, inputs, hidden, batch.views, True) if tiled else cells
    return RegionInputs(
        flat,
        torch.tensor([region.image for region in flat], device=device),
        batch.sizes,
        [_map(hidden, layer, grids).to(device) for layer in encoder.feature_layers],
        [one.tiles if tiled and one.tiles else one.base for one in batch.views],
        [one and {key: value.to(device) for key, value in one.items()} for one in batch.extra],
        _map(hidden, host.select_layer, cells).to(device) if crosses else None,
        host.encoder_tower,
    )


def _cells(
    host: TransformersHost, inputs: dict[str, object], hidden: HiddenStates, views: Sequence[ImageViews], tiled: bool
) -> list[Tensor]:
    """Tables of cells; raises if they are of other images than the views."""
    tables, patch = host.cells(inputs, hidden, views, tiled), host.tower_config.patch_size
    shown = [one.tiles if tiled and one.tiles else one.base for one in views]
    wanted = [(view.size[1] // patch, view.size[0] // patch) for view in shown]
    if (found := [tuple(table.shape) for table in tables]) != wanted:
        raise RegionError(
            f"the vision tower's images have {found} rows and columns of cells, those of region_views {wanted}: pass "
            "all that one call of the processor returns, batched together"
        )
    return tables


def dummy_inputs(
    host: TransformersHost, encoder: RegionEncoder, crosses: bool, hidden: HiddenStates | None, weight: Tensor
) -> RegionInputs:
    """One region that stands nowhere, on four cells of the tower, or on zeros in a batch without images.

    Where the tower has run, its own cells are read: a tower that trains then gets gradients on every rank.
    """
    config, square = host.tower_config, (_DUMMY_SIDE, _DUMMY_SIDE)
    region = Region.box(4, 4, 12, 12).resolve(square, "dummy region")

    def four_cells(layer: int) -> Tensor:
        zeros = weight.new_zeros(4, config.hidden_size)
        cells = zeros if hidden is None else _layer(hidden, layer).flatten(0, -2)[:4].to(weight.device)
        return cells.T.reshape(1, -1, 2, 2)  # (1, C, 2, 2)

    return RegionInputs(
        [region],
        torch.zeros(1, dtype=torch.long, device=weight.device),
        [square],
        [four_cells(layer) for layer in encoder.feature_layers],
        [View.resize(square, (2 * config.patch_size, 2 * config.patch_size))],
        [{key: value.to(weight.device) for key, value in encoder.dummy_extra().items()}],
        four_cells(host.select_layer) if crosses else None,
        host.encoder_tower,
    )


def _map(hidden: HiddenStates, layer: int, cells: Sequence[Tensor]) -> Tensor:
    found, needed = _layer(hidden, layer), 1 + max(int(table.max()) for table in cells)
    if found.shape[:-1].numel() < needed:
        raise RegionError(
            f"hidden layer {layer} of the vision tower has {found.shape[:-1].numel()} positions for at least {needed} "
            "cells: the tower merges cells behind its layers; choose an earlier one in encoder_options"
        )
    return gather_maps(found, cells)


def _layer(hidden: HiddenStates, layer: int) -> Tensor:
    found = hidden[layer]
    assert found is not None, f"hidden layer {layer} of the vision tower was not kept"
    return found


def is_cross(projector: nn.Module) -> bool:
    """Whether a region projector attends to the whole image."""
    return getattr(projector, "cross_layers", None) is not None


def join_padded(values: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors, each padded with zeros at the end of every axis but the first.

    Processors pad smaller images and images of fewer tiles so.
    """
    most = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    return torch.cat([_padded(value, most) for value in values])


def _padded(value: Tensor, most: Sequence[int]) -> Tensor:
    missing = [size - own for size, own in zip(most, value.shape[1:], strict=True)]
    return pad(value, [one for size in reversed(missing) for one in (0, size)])
