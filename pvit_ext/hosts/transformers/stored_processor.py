"""A processor whose image processor is replaced: by one that notes the stock one's output, or by a cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature

from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.hosts.transformers.batch import join_padded

ImageCall = Callable[[Any, Any, dict[str, Any]], Any]
"""(stock image processor, images, its keywords) -> its output."""


def with_images_by(processor: Any, call: ImageCall) -> Any:
    """A copy of a processor whose images go through a function.

    Args:
        processor: one of transformers'.
        call: replaces the image processor's ``__call__``; picklable, for data workers.
    """
    changed = copy.copy(processor)
    changed.image_processor = _replaced(processor.image_processor, call)
    return changed


def _replaced(stock: Any, call: ImageCall) -> Any:
    """A copy of an image processor whose class has another ``__call__``; processors read its attributes too."""

    def own_call(self: Any, images: Any, *_: Any, **keywords: Any) -> Any:
        return call(stock, images, keywords)

    def reduce(self: Any) -> tuple[Any, ...]:
        return _replaced, (stock, call)

    kind, made = type(stock), copy.copy(stock)
    values = {"__module__": kind.__module__, "__call__": own_call, "__reduce__": reduce}
    made.__class__ = type(kind.__name__, (kind,), values)
    return made


class Noting:
    """Keeps the stock image processor's last output.

    Attributes:
        made: the output by name.
    """

    made: dict[str, Any]

    def __call__(self, stock: Any, images: Any, keywords: dict[str, Any]) -> Any:
        """The stock output."""
        out = stock(images, **keywords)
        self.made = dict(out)
        return out


class Reading:
    """Returns the cached outputs for marked images, joined as the stock image processor joins them.

    Args:
        stored: the run's cache.
    """

    def __init__(self, stored: StoredVision) -> None:
        self.stored = stored

    def __call__(self, stock: Any, images: Any, keywords: dict[str, Any]) -> BatchFeature:
        """The output for images, or for lists of images by text."""
        each = [self.stored.prepared(image) for image in _flat(images)]
        return BatchFeature({name: _joined([one[name] for one in each]) for name in each[0]})


def _flat(images: Any) -> list[Image.Image]:
    if isinstance(images, Image.Image):
        return [images]
    return [one for part in images for one in _flat(part)]


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return join_padded(values)
    return [one for value in values for one in value] if isinstance(values[0], list) else values[0]
