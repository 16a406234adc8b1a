"""A processor of transformers' that takes regions: ``processor(text=..., images=..., regions=...)``.

Its class is the stock one with :class:`RegionProcessorMixin` before it, under the same name, so that what it writes
stays loadable by the stock class. Calls without a region are the stock class's own.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from PIL import Image

from pvit_ext.adapters.lion.tasks import NO_ADAPTERS, TASKS, UNSAID
from pvit_ext.config import CONFIG_KEY
from pvit_ext.data.tags.tags import HINT_STYLE
from pvit_ext.hosts.transformers.expanded_text import noting
from pvit_ext.hosts.transformers.hints import check_hints
from pvit_ext.hosts.transformers.placeholder import unread_of
from pvit_ext.hosts.transformers.processor_regions import ProcessorRegions, stored_in
from pvit_ext.hosts.transformers.processor_text import (
    expand,
    images_per_text,
    nested,
    regions_per_text,
    take_regions,
    tasks_per_text,
)
from pvit_ext.hosts.transformers.row_positions import call_with_rows
from pvit_ext.prompt import HINT_PLACEHOLDER, REGION_PLACEHOLDER, find_placeholders
from pvit_ext.regions.image import load_image
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.hint_text import refuse_unread
from pvit_ext.tokens.processor import RegionSample


class RegionProcessorMixin:
    """Adds regions to a processor's class; stands before it in the bases.

    Attributes:
        pvit_regions: what it knows of the model's region modules; None for a processor without.
    """

    pvit_regions: ProcessorRegions | None = None
    tokenizer: Any
    image_token: str

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *args: Any,
        regions: Sequence[Any] | None = None,
        tasks: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stock call that also writes out each ``<region>`` as T tokens (and delimiters), as it does an image.

        Args:
            images: as the stock class takes them, or anything that :func:`~pvit_ext.regions.image.load_image` opens.
                With regions they are turned upright by their EXIF data, paths and PIL images alike.
            text: one or several prompts with ``<region>`` where a region is spoken of.
            args: of the stock call.
            regions: of each text, :class:`~pvit_ext.regions.region.Region` in original pixels or what
                :class:`~pvit_ext.Query` takes; for one text also alone. ``image`` counts the images of the text.
            tasks: name of each text's task, for a model with adapters by task; None for the usual ones.
            kwargs: of the stock call.

        Returns:
            the stock output, with ``regions``, ``region_sizes``, ``region_views`` and ``region_extra`` for the model,
            and with ``tasks`` (B,) where they were given, or the model cannot see which samples have regions.

        Raises:
            RegionError: naming the sample, where texts, images and regions do not fit together, where truncation
                would cut a region off, and for a task that the model does not know.
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        speaks = regions is not None or any(_speaks_of_regions(one) for one in texts)
        if not speaks and tasks is None:
            return self._checked(self._call(images, text, *args, **kwargs), texts)
        if (known := self.pvit_regions) is None:
            raise RegionError("this processor knows no region encoder: pvit_ext.attach(model, config, processor=...)")
        if tasks is not None and not known.config.lion_adapters:
            raise RegionError(NO_ADAPTERS)
        named = tasks_per_text(texts, tasks)
        if not speaks:
            numbers = [known.samples.task(one, False, f"sample {index}") for index, one in enumerate(named)]
            return _with_tasks(self._checked(self._call(images, text, *args, **kwargs), texts), numbers)
        known.check_call(kwargs)
        given = regions_per_text(texts, regions)
        counts = images_per_text(self, texts, images)
        prepared = []
        for number, own in enumerate(nested(images, counts)):
            opened = [_open(one) for one in own]
            name = f"sample {number}"
            prepared.append(known.samples(opened, [texts[number]], given[number], name, named[number]))
        unseen = tasks is not None or not known.facts.tokens_per_region
        return _with_tasks(self.encode(prepared, *args, **kwargs), [one.task for one in prepared] if unseen else [])

    def encode(self, prepared: Sequence[RegionSample], *args: Any, **kwargs: Any) -> Any:
        """What :meth:`__call__` returns for samples that the region processor has prepared.

        Args:
            prepared: each with one text.
            args: of the stock call, behind images and text.
            kwargs: of the stock call.

        Raises:
            RegionError: naming the sample whose region truncation would cut off, or a view crops away.
        """
        assert self.pvit_regions is not None
        sizes = [size for sample in prepared for size in sample.sizes]
        counts = [len(sample.sizes) for sample in prepared]
        shown = [sample.images for sample in prepared]
        token, positions = REGION_PLACEHOLDER, self.pvit_regions.samples.positions_per_region
        prompts = [expand(sample.texts[0], token, positions) for sample in prepared]
        out = self._checked(self._call(shown if sizes else None, prompts, *args, **kwargs), prompts)
        if any(sample.regions for sample in prepared):
            token_id = self.tokenizer.convert_tokens_to_ids(token)
            out.data.update(self.pvit_regions.for_model(self, out, prepared, sizes, counts, token_id))
        return out

    def _call(self, images: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        """The stock output; with positions behind each image, where the model appends rows there."""
        stock: Any = super(RegionProcessorMixin, type(self)).__call__  # type: ignore[misc]
        known = self.pvit_regions
        if known is None or not known.appends_rows or images is None:
            return stock(noting(self), images, text, *args, **kwargs)
        if text is None:
            out = stock(noting(self), images, text, *args, **kwargs)
            if "input_ids" in out:  # of a text that the family writes itself, without positions for rows
                raise RegionError(
                    "images were given without a text, and the model appends rows of its vision aggregator behind "
                    f"each: give text= with {self.image_token} where an image stands"
                )
            return out
        return call_with_rows(stock, self, known.family, images, text, *args, **kwargs)

    def _checked(self, out: Any, texts: Sequence[str]) -> Any:
        """The stock output, of which truncation cut no hint, and which has no placeholder that nothing reads."""
        unread = () if self.pvit_regions is None else self.pvit_regions.unread
        for number, text in enumerate(texts if unread else ()):
            refuse_unread([text], unread, f"sample {number}")
        reads_hints = self.pvit_regions is not None and self.pvit_regions.config.lion_tags == HINT_STYLE
        if reads_hints and any(HINT_PLACEHOLDER in text for text in texts):
            check_hints(out["input_ids"], texts, self.tokenizer.convert_tokens_to_ids(HINT_PLACEHOLDER))
        return out

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Stock method; content items ``{"type": "region", "region": Region}`` stand where a region is spoken of.

        Raises:
            RegionError: for an item without a region, or regions given in two ways.
        """
        plain, found = take_regions(conversation)
        if any(found) and kwargs.get("tokenize"):
            more = dict(kwargs.get("processor_kwargs") or {})
            if more.get("regions") or kwargs.get("regions"):
                raise RegionError("regions are given twice: as items of the conversation, and by keyword")
            kwargs["processor_kwargs"] = {**more, "regions": found}
        return super().apply_chat_template(plain, *args, **kwargs)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        """The stock class's values, and what names the region encoder."""
        plain = copy.copy(self)
        plain.__dict__.pop("pvit_regions", None)
        values: dict[str, Any] = super(RegionProcessorMixin, plain).to_dict()  # type: ignore[misc]
        return values if self.pvit_regions is None else {**values, CONFIG_KEY: self.pvit_regions.to_json()}

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Stock method; a folder without regions gives a processor without."""
        return with_regions_of(super().from_pretrained(path, *args, **kwargs), path, **kwargs)  # type: ignore[misc]


def give_regions(processor: Any, regions: ProcessorRegions) -> Any:
    """Turn a loaded processor into one that takes regions, in place, and return it."""
    stock: Any = type(processor)
    processor.__class__ = region_processor_class(stock)
    processor.pvit_regions = replace(regions, unread=unread_of(processor.tokenizer, regions.config))
    return processor


def with_regions_of(processor: Any, path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Turn a processor into one that takes regions if the folder it was loaded from names a region encoder.

    Args:
        processor: of the stock class, or of a region class.
        path: folder or hub id.
        kwargs: of ``from_pretrained``, such as ``revision``.
    """
    regions = stored_in(path, **kwargs)
    return processor if regions is None else give_regions(processor, regions)


@cache
def region_processor_class(stock: type) -> Any:
    """The region class of a processor's class; a region class is its own."""
    if issubclass(stock, RegionProcessorMixin):
        return stock
    values = {"__module__": __name__, "__doc__": stock.__doc__}
    return type(stock.__name__, (RegionProcessorMixin, stock), values)


def _speaks_of_regions(text: str) -> bool:
    return isinstance(text, str) and any(True for _ in find_placeholders(text))


def _with_tasks(out: Any, numbers: Sequence[int | None]) -> Any:
    """The output with the tasks of its samples, unless none of them has one."""
    if not {*numbers} <= {None, UNSAID}:
        out.data[TASKS] = torch.tensor(numbers)  # (B,)
    return out


def _open(source: Any) -> Image.Image:
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        from transformers.image_utils import load_image as fetch

        source = fetch(source)
    if isinstance(source, Mapping):
        raise RegionError(f"an image is given as {sorted(source)}: give what it holds")
    return load_image(source)


def __getattr__(name: str) -> Any:
    """Find a processor's class by its name, for pickle."""
    from transformers.models.auto.processing_auto import processor_class_from_name

    stock = None if name.startswith("_") else processor_class_from_name(name)
    if not isinstance(stock, type) or not hasattr(stock, "apply_chat_template"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return region_processor_class(stock)
