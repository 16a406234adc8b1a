"""The region processor: images, texts and regions of one sample -> what tokenizer, vision tower and model get.

Asking, training, evaluation and serving all prepare their samples here, whatever the host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.data.tags.tags import HINT_STYLE, check_image, clean_tags, with_tags
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.encoders.own_tower import MADE, STORED, StoredMaps
from pvit_ext.prompt import (
    IMAGE_TOKEN_INDEX,
    REGION_PLACEHOLDER,
    REGION_TOKEN_INDEX,
    fill_placeholders,
    find_placeholders,
    replace_markup,
)
from pvit_ext.regions.region import Region, RegionError, ResolvedRegion, Size
from pvit_ext.regions.view import View
from pvit_ext.tokens.given_regions import read_regions
from pvit_ext.tokens.hint_text import refuse_unread, say_hint_is_text
from pvit_ext.tokens.region_module import RegionModule
from pvit_ext.tokens.resolving import naming, on_image, resolve


@dataclass(frozen=True)
class RegionPrompt:
    """Texts and regions of one sample, all checked; its images have not been decoded.

    Args:
        texts: with ``<region>`` for each region that the model gets, and the encoder's words for the others.
        regions: that the model gets, in the order of their placeholders; none for an encoder with T = 0.
        given: all regions of the sample, in the order of their placeholders.
        name: of the sample, for messages.
        task: number of its task, for a model with adapters by task.
    """

    texts: list[str]
    regions: list[ResolvedRegion]
    given: list[ResolvedRegion]
    name: str
    task: int | None = None


@dataclass(frozen=True)
class RegionSample:
    """One sample as tokenizer, image processor and model get it.

    Args:
        images: as the vision tower sees them.
        texts: with ``<region>`` for each region that the model gets, and the encoder's words for the others.
        regions: that the model gets, in the order of their placeholders.
        sizes: (width, height) of each upright image.
        extra: the encoder's ``preprocess`` output for each image, None for one without a region.
        task: number of its task, for a model with adapters by task.
    """

    images: list[Image.Image]
    texts: list[str]
    regions: list[ResolvedRegion]
    sizes: list[Size]
    extra: list[dict[str, Tensor] | None]
    task: int | None = None


@dataclass(frozen=True)
class RegionProcessor:
    """Prepares samples for a model with a region encoder.

    Args:
        encoder: the model's, or None for a model without regions.
        positions_per_region: S, positions of the prompt that one region takes.
        stored_maps: maps that the encoder's own tower made of the images before; it then needs none of their pixels.
        made_map: gives such a map (C, H, W) by an image's name, where maps are shared between samples.
        tasks: of a model with adapters by task.
        tag_style: how the model reads tags of images, see :mod:`pvit_ext.data.tags.tags`; None for one that reads none.
        unread: placeholders that are tokens of the tokenizer, from earlier region modules, and of no use to the model.
    """

    encoder: RegionEncoder | None = None
    positions_per_region: int = 1
    stored_maps: StoredMaps | None = None
    made_map: Callable[[str], Tensor] | None = None
    tasks: Tasks | None = None
    tag_style: str | None = None
    unread: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: RegionModule | None) -> RegionProcessor:
        """The processor of a model's region module, or of a model that has none."""
        if module is None:
            return cls()
        tasks, style = Tasks.of(module.config), module.config.lion_tags
        return cls(module.region_encoder, module.positions_per_region, tasks=tasks, tag_style=style)

    @property
    def needs_pixels(self) -> bool:
        """Whether the encoder reads the image itself."""
        if self.encoder is None:
            return False
        has_maps = self.stored_maps is not None or self.made_map is not None
        return self.encoder.paints or (self.encoder.needs_pixels and not has_maps)

    def tagged(self, question: str, tags: Any, name: str, images: int, special: SpecialTokens | None = None) -> str:
        """A question with the tags of its image before it.

        Args:
            question: the first of the sample.
            tags: a list of texts.
            name: of the sample, for messages.
            images: how many the sample has.
            special: tokens of the model's tokenizer, of which a tag may hold none.

        Raises:
            RegionError: for what is no list of tags, for a sample without an image, and for a model that reads none.
        """
        if self.tag_style is None:
            raise RegionError(
                f"{name}: tags were given, but the model reads none: leave them out, or train one that does "
                "(lion_tags, 'hint' or 'plain', of attach, swap and --region_lion_tags)"
            )
        try:
            check_image(images > 0)
            return with_tags(question, clean_tags(tags, special), self.tag_style)
        except ValueError as error:
            raise RegionError(f"{name}: {error}") from error

    def check_placeholders(self, texts: Sequence[str], name: str) -> None:
        """Refuse a placeholder that the model does not read and the tokenizer keeps as a token; log one that is text.

        Args:
            texts: of the sample.
            name: of the sample.

        Raises:
            RegionError: naming the sample and the placeholder.
        """
        refuse_unread(texts, self.unread, name)
        if self.tag_style != HINT_STYLE:
            say_hint_is_text(texts, name)

    def __call__(
        self,
        images: Sequence[Image.Image],
        texts: Sequence[str],
        regions: Sequence[Region],
        name: str,
        task: str | None = None,
    ) -> RegionSample:
        """Prepare one sample: resolve its regions, describe or paint them, and make the encoder's own inputs.

        Args:
            images: upright RGB originals.
            texts: with one ``<region>`` for each region, or PVIT's inline markup, counted through all texts.
            regions: in the order of their placeholders.
            name: of the sample, for messages.
            task: of the sample; None for the usual one.

        Raises:
            RegionError: naming the sample or its region; see :meth:`prompt`.
        """
        regions = read_regions(regions, name)
        return self.show(self.prompt(texts, regions, [image.size for image in images], name, task), images)

    def task(self, asked: str | None, has_regions: bool, name: str) -> int | None:
        """Number of a sample's task; None for a model without adapters by task.

        Args:
            asked: the task that a record or query says; None for the usual one.
            has_regions: whether the sample has any.
            name: of the sample, for messages.

        Raises:
            RegionError: naming the sample, for a task that the model does not know.
        """
        try:
            return None if self.tasks is None else self.tasks.number(asked, has_regions, name)
        except ValueError as error:
            raise RegionError(str(error)) from error

    def prompt(
        self,
        texts: Sequence[str],
        regions: Sequence[Region],
        sizes: Sequence[Size],
        name: str,
        task: str | None = None,
    ) -> RegionPrompt:
        """Prepare everything about a sample that needs no pixels.

        Args:
            texts: with one ``<region>`` for each region, or PVIT's inline markup, counted through all texts.
            regions: in the order of their placeholders.
            sizes: (width, height) of the upright images.
            name: of the sample, for messages.
            task: that a record or query says.

        Raises:
            RegionError: for malformed markup, a wrong count, an image that is not there, a region that lies outside
                its image, or one that the encoder does not take or cannot describe.
        """
        found = [one for text in texts for one in find_placeholders(text, name)]
        texts = [replace_markup(text) for text in texts]
        self.check_placeholders(texts, name)
        given = [
            resolve(region, sizes, name, number)
            for number, region in enumerate(fill_placeholders(found, regions, name, texts))
        ]
        if self.encoder is not None:
            self.encoder.check_kinds(given)
        number = self.task(task, bool(given), name)
        if self.encoder is None or self.encoder.tokens_per_region or not given:
            return RegionPrompt(texts, given, given, name, number)
        with naming(name):
            words = iter(self.encoder.describe(given, sizes))
        described = [re.sub(re.escape(REGION_PLACEHOLDER), lambda _: next(words), text) for text in texts]
        return RegionPrompt(described, [], given, name, number)

    def show(
        self, prompt: RegionPrompt, images: Sequence[Image.Image], names: Sequence[str] | None = None
    ) -> RegionSample:
        """Add the pixels to what :meth:`prompt` made.

        Args:
            prompt: of the sample.
            images: upright RGB originals of the sizes it was made with.
            names: of the images, by which maps of them are found.

        Raises:
            RegionError: naming the sample, for what the encoder cannot paint or preprocess.
        """
        sizes, encoder = [image.size for image in images], self.encoder
        if encoder is None:
            return RegionSample(list(images), prompt.texts, prompt.regions, sizes, [None] * len(images), prompt.task)
        painted: list[Image.Image] = []
        extra: list[dict[str, Tensor] | None] = []
        with naming(prompt.name):
            for number, image in enumerate(images):
                painted.append(encoder.paint(image, on_image(number, prompt.given)))
                own = on_image(number, prompt.regions)
                name = None if names is None else names[number]
                extra.append(self._own_inputs(encoder, image, own, name) if own else None)
        return RegionSample(painted, prompt.texts, prompt.regions, sizes, extra, prompt.task)

    def _own_inputs(
        self, encoder: RegionEncoder, image: Image.Image, regions: list[ResolvedRegion], name: str | None
    ) -> dict[str, Tensor]:
        """What the encoder gets of an image beside the vision tower's features."""
        if self.made_map is not None and name is not None:
            return {MADE: self.made_map(name)}
        if self.stored_maps is None or name is None:
            return encoder.preprocess(image, regions)
        return {STORED: torch.tensor(self.stored_maps.number(name))}

    def check(self, regions: Sequence[ResolvedRegion], views: Sequence[View], sizes: Sequence[Size]) -> None:
        """Refuse what would end a step of training; in data workers the sample can still be named and replaced.

        Args:
            regions: of one sample.
            views: what the vision tower sees of each of its images.
            sizes: (width, height) of each image.

        Raises:
            RegionError: naming a region that the view of its image crops away, where the encoder looks at that view.
        """
        if self.encoder is not None and self.encoder.feature_layers and regions:
            index = torch.tensor([region.image for region in regions])
            RegionInputs(list(regions), index, list(sizes), views=list(views)).tower_boxes  # noqa: B018

    def count_positions(self, ids: Tensor, image_positions: Sequence[int]) -> int:
        """Positions that a prompt takes once its images and regions are in it.

        Args:
            ids: (L,) int64, the prompt or its beginning, with :data:`~pvit_ext.prompt.IMAGE_TOKEN_INDEX` and
                :data:`~pvit_ext.prompt.REGION_TOKEN_INDEX` for an image and a region each.
            image_positions: that each image of the sample takes, in order.
        """
        images = image_positions[: int((ids == IMAGE_TOKEN_INDEX).sum())]
        regions = int((ids == REGION_TOKEN_INDEX).sum())
        return len(ids) + sum(images) - len(images) + regions * (self.positions_per_region - 1)
