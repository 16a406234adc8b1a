"""A host's frozen vision tower as a cache stores it: one image at a time, through the run's own preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from pvit_ext.data.cache.key import CacheError, key_of, probes
from pvit_ext.data.cache.nested import take_apart
from pvit_ext.data.cache.source import Made
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.cache.vision import StoredVision, packed
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.distributed import gathered
from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.hosts.stored_vision import noting_output
from pvit_ext.regions.region import Size

_LAYERS = "layers"
_SPARE = 4096
"""Bytes for the alignment of an image's tensors."""


class VisionPass(Protocol):
    """A host's vision tower, as a cache of it needs it."""

    @property
    def axis(self) -> int:
        """See :class:`~pvit_ext.data.cache.vision.StoredVision`."""

    @property
    def module(self) -> nn.Module:
        """The tower: the module whose output is stored."""

    @property
    def image_processor(self) -> Any:
        """The stock image processor, whose values decide about the pixels."""

    @property
    def layers(self) -> list[int]:
        """Hidden layers that the run reads, counted from 0; none for a tower whose whole output is kept."""

    def settings(self) -> dict[str, Any]:
        """All that decides about pixels, in words that a message can show."""

    def prepare(self, image: Image.Image | None) -> dict[str, Any]:
        """The image processor's output for an upright original; for None, that of a record without an image."""

    def run(self, prepared: Mapping[str, Any]) -> None:
        """Pass an image through the tower as the model does it."""

    def keep(self, output: Any) -> Any:
        """The part of the tower's output that a run reads; an output with names comes as a dict."""

    def refuse(self, records: Iterable[Any]) -> None:
        """Raise CacheError for records whose images are not shown to the tower one by one."""

    def connect(self, dataset: RecordDataset, stored: StoredVision) -> None:
        """Let model and data workers read the stored outputs."""


@dataclass(frozen=True)
class HostTower:
    """See :class:`~pvit_ext.data.cache.source.StoredTower`.

    Args:
        seen: the host's tower.
        autocast: dtype of the run's mixed precision, if it has one.
        half: whether the run turns the model into float16 when it starts.
        pixel_dtype: that pixels are turned into before the tower gets them; None for that of the image processor.
    """

    seen: VisionPass
    autocast: torch.dtype | None = None
    half: bool = False
    pixel_dtype: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype in the run."""
        return torch.float16 if self.half else next(self.seen.module.parameters()).dtype

    def key(self, layers: Sequence[int] | None = None) -> dict[str, Any]:
        """All that the output depends on, except the image; under ZeRO-3 every rank has to call it.

        Args:
            layers: those that are stored, default those that the run reads.
        """
        module = self.seen.module
        config = getattr(module, "config", None)
        settings = {
            _LAYERS: [*(self.seen.layers if layers is None else layers)],
            "attention": getattr(config, "_attn_implementation", None),
            "mixed precision": str(self.autocast),
            **self.seen.settings(),
        }
        shown = (tensor for image in (*probes(), None) for tensor in _tensors(self.seen.prepare(image)))
        with gathered(list(module.parameters())):
            return key_of(f"vision tower {type(module).__name__}", self.dtype, settings, shown, module.state_dict())

    def bytes_of(self, size: Size) -> int:
        """About the bytes of an image of this size: they are proportional to the pixels that the tower gets."""
        return int(self._pixels(size) * self._bytes_per_pixel) + _SPARE

    @cached_property
    def _bytes_per_pixel(self) -> float:
        made = self.make(None)
        return sum(one.numel() * one.element_size() for one in made.tensors) / _most(self.seen.prepare(None))

    @cached_property
    def _pixels(self) -> Any:
        counts = {_most(self.seen.prepare(image)) for image in probes()}
        if len(counts) == 1:  # whatever the size
            return lambda _: next(iter(counts))
        return lru_cache(None)(lambda size: _most(self.seen.prepare(Image.new("RGB", size))))

    def make(self, image: Image.Image | None) -> Made:
        """The tower's output for an image, and the image processor's, except pixels.

        Raises:
            CacheError: when the tower returns anything but tensors.
        """
        module, prepared = self.seen.module, self.seen.prepare(image)
        device = next(module.parameters()).device
        with torch.no_grad(), self._mixed(device.type), noting_output(module) as found:
            self.seen.run(moved(prepared, device, self.pixel_dtype))
        try:
            form, tensors = take_apart(self.seen.keep(found[-1]))
        except TypeError as error:
            raise CacheError(f"the vision tower {type(module).__name__} cannot be stored: {error}") from error
        size = None if image is None else list(image.size)
        return Made(tensors, {"size": size, "prepared": packed(prepared), "form": form})

    def _mixed(self, device: str) -> AbstractContextManager[Any]:
        return nullcontext() if self.autocast is None else torch.autocast(device, self.autocast)

    def check(self, encoder: RegionEncoder | None, records: Iterable[Any]) -> None:
        """Refuse a run in which the tower's output for an image changes.

        Args:
            encoder: region encoder of the run.
            records: of the run.

        Raises:
            CacheError: saying why.
        """
        if any(parameter.requires_grad for parameter in self.seen.module.parameters()):
            raise CacheError("the vision tower trains in this run, its output changes")
        if encoder is not None and encoder.paints:
            raise CacheError(f"the encoder {encoder.name!r} paints on the image, the tower sees another in each record")
        self.seen.refuse(records)


def use_stored(tower: HostTower, cache: FeatureCache, dataset: RecordDataset) -> None:
    """Let a model read the vision tower's output from a cache.

    Args:
        tower: of the run.
        cache: of this tower.
        dataset: of the run.

    Raises:
        CacheError: when the cache is of another tower or lacks a layer, or the tower trains.
    """
    try:
        tower.check(dataset.region_processor.encoder, dataset.records)
    except CacheError as error:
        raise CacheError(f"--region_cache {cache.folder}: {error}") from error
    stored = [*cache.key.get("settings", {}).get(_LAYERS, ())]
    if lacking := sorted({*tower.seen.layers} - {*stored}):
        raise CacheError(
            f"--region_cache {cache.folder} has the vision tower's hidden layers {stored}, this run reads {lacking}: "
            "make it with the flags of this run"
        )
    device = next(tower.seen.module.parameters()).device.type
    cache.check_key(tower.key(stored), device, "vision tower")
    tower.seen.connect(dataset, StoredVision(cache, tower.seen.axis))


def moved(prepared: Mapping[str, Any], device: torch.device, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What an image processor made, on a device, and its pixels of a dtype where one is given."""

    def placed(one: Tensor) -> Tensor:
        return one.to(device, dtype if one.is_floating_point() else None)

    return {name: placed(one) if isinstance(one, Tensor) else one for name, one in prepared.items()}


def _tensors(prepared: Mapping[str, Any]) -> list[Tensor]:
    return [torch.as_tensor(value) for _, value in sorted(prepared.items())]


def _most(prepared: Mapping[str, Any]) -> int:
    """The number of values of the largest tensor, which is the pixels."""
    return max(tensor.numel() for tensor in _tensors(prepared))
