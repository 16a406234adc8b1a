"""The vision aggregator in models of transformers': added to the image's rows before tiles are joined, or collected."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any

from torch import Tensor

from pvit_ext.adapters.lion.aggregator import VisionAggregator
from pvit_ext.hosts.base import HiddenStates
from pvit_ext.hosts.transformers.appended_rows import collected
from pvit_ext.hosts.transformers.host import TransformersHost
from pvit_ext.ops.hooks import own_hooks
from pvit_ext.regions.region import RegionError

_PROJECTOR = "multi_modal_projector"
_of_video: ContextVar[bool] = ContextVar("of_video", default=False)


def with_rows(stock: Callable[..., Any]) -> Callable[..., Any]:
    """An inner model's ``get_image_features``, with its aggregator's rows added where there is one.

    They are added behind the projector, or behind a tower that ends with one (Qwen). Rows that are appended are
    collected there, where a pass asks for them.

    Args:
        stock: the method of the stock class; its signature is kept, by which a host gives it what it takes.
    """
    signature = inspect.signature(stock)

    @wraps(stock)
    def get_image_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        part: VisionAggregator | None = getattr(self.outer[0], "region_aggregator", None)
        wanted = collected()
        if part is None or _of_video.get() or (part.appended and wanted is None):
            return stock(self, *args, **kwargs)
        host: TransformersHost = self.region_host
        inputs, seen = signature.bind(self, *args, **kwargs).arguments, list[HiddenStates]()

        def note(_args: Any, _kwargs: Any, output: Any) -> None:
            seen.append(output.hidden_states)

        def add(_args: Any, _kwargs: Any, output: Tensor) -> Tensor | None:
            if part.appended:
                assert wanted is not None
                wanted.rows.append(base_rows(part, host, inputs, seen[-1], output, wanted.ends))
                return None
            return output + rows(part, host, inputs, seen[-1], output)

        def add_to_merged(_args: Any, _kwargs: Any, output: Any) -> Any:
            note(_args, _kwargs, output)
            if (merged := add(_args, _kwargs, output.pooler_output)) is None:
                return None
            changed = copy.copy(output)  # the tower's own may be kept for other questions
            changed.pooler_output = merged
            return changed

        kwargs["output_hidden_states"] = host.kept_layers
        joint = getattr(self, _PROJECTOR, None)
        hooks = [(host.tower, add_to_merged)] if joint is None else [(host.tower, note), (joint, add)]
        with own_hooks(hooks):
            return stock(self, *args, **kwargs)

    return get_image_features


def without_rows(stock: Callable[..., Any]) -> Callable[..., Any]:
    """An inner model's ``get_video_features``, which gets no rows where it goes by that for images (Qwen3-VL).

    Args:
        stock: the method of the stock class.
    """

    @wraps(stock)
    def get_video_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = _of_video.set(True)
        try:
            return stock(self, *args, **kwargs)
        finally:
            _of_video.reset(before)

    return get_video_features


def base_rows(
    part: VisionAggregator,
    host: TransformersHost,
    inputs: Mapping[str, Any],
    hidden: HiddenStates,
    own: Tensor,
    ends: Tensor,
) -> Tensor:
    """The aggregator's rows (R, D) of the whole view of each image.

    Args:
        part, host, inputs, hidden, own: see :func:`rows`.
        ends: see :meth:`~pvit_ext.hosts.transformers.families.base.Family.base_views`.

    Raises:
        RegionError: for fewer crops than the prompts' images have.
    """
    crops = host.family.base_views(host.inner, inputs, ends, own.shape[-2])
    if crops is not None:
        if len(crops) and int(crops.max()) >= len(own):  # on a GPU an index out of bounds ends the process
            raise RegionError(
                f"the prompts show {len(crops)} image(s), whose whole views are crops {crops.tolist()}, but the images "
                f"given have {len(own)} crop(s): pass all that one call of the processor returns"
            )
        own, hidden = own[crops], [None if layer is None else layer[crops] for layer in hidden]
    return rows(part, host, inputs, hidden, own).flatten(0, -2)


def rows(
    part: VisionAggregator, host: TransformersHost, inputs: Mapping[str, Any], hidden: HiddenStates, own: Tensor
) -> Tensor:
    """The aggregator's rows, of the shape and dtype of the image's own.

    Args:
        part: the aggregator.
        host: the model.
        inputs: arguments of ``get_image_features``.
        hidden: layers of the tower; None for those that were not kept.
        own: (crops, P, D), (1, R, D) or (R, D).
    """
    per_crop = own.shape[1] if own.dim() == 3 else len(own)
    groups = host.family.groups(host.inner, inputs, hidden, per_crop)
    layers = []
    for number in part.layers:
        layer = hidden[number]
        assert layer is not None, f"hidden layer {number} of the vision tower was not kept"
        layers.append(groups.cells(layer))
    merged = None if groups.groups is None else groups.groups.to(own.device)
    return part(layers, groups.cu_seqlens, merged).view_as(own).to(own)
