"""The images of a batch of questions, of which the towers see each once for as many questions as there are."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.data.cache.source import Made
from pvit_ext.data.cache.vision import StoredVision, number_of
from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.hosts.image_features import ImageFeatures
from pvit_ext.hosts.image_names import decode, name_and_file, name_of_pixels
from pvit_ext.hosts.prefix import Prefix
from pvit_ext.hosts.tower_state import state_of
from pvit_ext.hosts.vision_pass import HostTower
from pvit_ext.regions.image import ImageError, image_size, reading
from pvit_ext.regions.region import Size
from pvit_ext.tokens.processor import RegionProcessor, RegionPrompt, RegionSample
from pvit_ext.tokens.query import Query


class SharedImages:
    """The images of one call of ``ask``, for one model in its present state.

    Args:
        features: kept between calls.
        tower: the model's vision tower.
        encoder: the model's region encoder, if it has one.

    Attributes:
        prefix: the beginning of prompts that the language model has read last.
    """

    def __init__(self, features: ImageFeatures, tower: HostTower, encoder: RegionEncoder | None) -> None:
        self.features, self.tower, self.encoder = features, tower, encoder
        self.prefix = Prefix()
        self._names: dict[Hashable, tuple[Any, str]] = {}

    def batch(self) -> ShownImages:
        """The images of a batch, none yet."""
        return ShownImages(self)

    def name(self, source: Any) -> tuple[str, Any]:
        """The name of an image, and what it is decoded from; that is None where the call has named it before."""
        key = os.fspath(source) if isinstance(source, (str, os.PathLike)) else id(source)
        if key in self._names:
            return self._names[key][1], None
        name, file = name_and_file(source)
        self._names[key] = source, name  # the source is kept: another might get its id
        return name, file

    def vision(self, name: str, image: Any) -> Made:
        """What the vision tower makes of an image.

        Args:
            name: of the image.
            image: gives it, decoded.
        """
        key = self._vision_state, name
        return self.features.get(key, lambda: self.tower.make(image()), lambda made: _bytes(made.tensors))

    def map(self, name: str, image: Any) -> Tensor:
        """The map (C, H, W) of the region encoder's own tower; arguments as of :meth:`vision`."""
        key = self._encoder_state, name
        return self.features.get(key, lambda: self._map(image()), lambda made: _bytes([made]))

    def pixels(self, name: str, image: Any) -> Image.Image:
        """The decoded image; arguments as of :meth:`vision`."""
        return self.features.get(("pixels", name), image, lambda one: 3 * one.width * one.height)

    @cached_property
    def _vision_state(self) -> Hashable:
        seen = self.tower.seen
        layers = tuple(seen.layers), tuple(sorted(seen.settings().items())), self.tower.pixel_dtype
        return state_of(seen.module, seen.image_processor), layers

    @cached_property
    def _encoder_state(self) -> Hashable:
        assert self.encoder is not None
        return state_of(self.encoder)

    def _map(self, image: Image.Image) -> Tensor:
        encoder = self.encoder
        assert isinstance(encoder, TowerEncoder)
        device = next(encoder.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return encoder.run_tower(encoder.pixels(image)[None].to(device))[0]  # (C, H, W)


class ShownImages:
    """The images of one batch; it keeps what the batch needs, whatever is dropped from the cache meanwhile.

    Args:
        shared: of the call.

    Attributes:
        shown: names of the images of each sample, as the tower sees them.
    """

    def __init__(self, shared: SharedImages) -> None:
        self.shared = shared
        self.stored = StoredVision(self, shared.tower.seen.axis)
        self._sources: dict[str, tuple[Any, Any]] = {}
        self._decoded: dict[str, Image.Image] = {}
        self._numbers: dict[str, int] = {}
        self._made: list[Made] = []
        self._maps: dict[str, Tensor] = {}
        self._blanks: dict[str, Image.Image] = {}
        self.shown: list[tuple[str, ...]] = []

    def processor(self, stock: RegionProcessor) -> RegionProcessor:
        """The region processor that reads maps of the encoder's own tower here, where it has one."""
        has_tower = isinstance(self.shared.encoder, TowerEncoder)
        return replace(stock, made_map=self.map) if has_tower else stock

    def open(self, query: Query, needs_pixels: bool) -> tuple[list[Image.Image], list[str]]:
        """The images of a query, and their names.

        Args:
            query: the question.
            needs_pixels: whether the region processor looks at pixels; else the images are blanks of their sizes.

        Raises:
            OSError, ImageError: for an image that cannot be read.
        """
        names = [self._name(source) for source in query.sources()]
        if self.shared.encoder is None or not self.shared.encoder.paints:
            for name in names:
                self.number(name)  # here an image that cannot be read is named
        if needs_pixels:
            return [self.shared.pixels(name, partial(self._pixels, name)) for name in names], names
        return [self._blank(name, self._size(name)) for name in names], names

    def marked(self, sample: RegionSample, names: Sequence[str]) -> RegionSample:
        """A sample whose images say which they are, for the host's image processor.

        Args:
            sample: as the region processor showed it.
            names: of its images; of one whose pixels were painted on, those of the result count.
        """
        encoder = self.shared.encoder
        if len(names) != len(sample.images) or (encoder is not None and encoder.paints):
            names = [self._painted(image) for image in sample.images]
        self.shown.append(tuple(names))
        marked = [self._blank(name, size) for name, size in zip(names, sample.sizes, strict=True)]
        return replace(sample, images=[self.stored.mark(*pair) for pair in zip(marked, names, strict=True)])

    def output(self, samples: Sequence[RegionSample], device: torch.device) -> Any:
        """What the vision tower returns for all images of samples, which are marked; None where there are none."""
        numbers = [number_of(image) for sample in samples for image in sample.images]
        return self.stored.output(numbers, device) if numbers else None

    def number(self, name: str) -> int:
        """See :class:`~pvit_ext.data.cache.vision.StoredOutputs`; the tower runs where it has to."""
        if name not in self._numbers:
            self._made.append(self.shared.vision(name, partial(self._pixels, name)))
            self._numbers[name] = len(self._made) - 1
        return self._numbers[name]

    def about_image(self, number: int) -> dict[str, Any]:
        """See :class:`~pvit_ext.data.cache.vision.StoredOutputs`."""
        return self._made[number].about

    def tensors(self, number: int) -> list[Tensor]:
        """See :class:`~pvit_ext.data.cache.vision.StoredOutputs`."""
        return self._made[number].tensors

    def map(self, name: str) -> Tensor:
        """The map of the region encoder's own tower."""
        if name not in self._maps:
            self._maps[name] = self.shared.map(name, partial(self._pixels, name))
        return self._maps[name]

    def _name(self, source: Any) -> str:
        name, file = self.shared.name(source)
        self._sources.setdefault(name, (source, file))
        return name

    def _painted(self, image: Image.Image) -> str:
        name = name_of_pixels(image)
        self._decoded[name] = image
        return name

    def _pixels(self, name: str) -> Image.Image:
        """The decoded image."""
        if name not in self._decoded:
            source, file = self._sources[name]
            if file is None:
                now, file = name_and_file(source)
                if now != name:
                    raise ImageError.of(source, "it has changed while questions about it were asked")
            self._decoded[name] = decode(file, source)
        return self._decoded[name]

    def _size(self, name: str) -> Size:
        if name in self._blanks:
            return self._blanks[name].size
        return image_size(self._sources[name][0])

    def _blank(self, name: str, size: Size) -> Image.Image:
        return self._blanks.setdefault(name, Image.new("1", size))


def prepare(
    processor: RegionProcessor,
    query: Query,
    prompt: RegionPrompt,
    shown: ShownImages | None,
    otherwise: Sequence[Image.Image] = (),
) -> RegionSample:
    """A question as tokenizer, image processor and model get it.

    Args:
        processor: of the model; of shared images the one that :meth:`ShownImages.processor` gives.
        query: the question.
        prompt: of it.
        shown: what the towers make of the images, if that is shared.
        otherwise: what stands for the images of a question without any.

    Raises:
        RegionError: naming the query whose image cannot be read.
    """
    names: list[str] = []
    with reading(prompt.name):
        if shown is None:
            images = query.load_images()
        else:
            images, names = shown.open(query, processor.needs_pixels)
    sample = processor.show(prompt, images or otherwise, names or None)
    return sample if shown is None else shown.marked(sample, names)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)
