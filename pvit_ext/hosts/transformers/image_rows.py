"""The vision aggregator in models of transformers': added to the image's rows, before tiles are joined."""

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
from pvit_ext.hosts.transformers.host import TransformersHost
from pvit_ext.ops.hooks import own_hooks

_PROJECTOR = "multi_modal_projector"
_of_video: ContextVar[bool] = ContextVar("of_video", default=False)


def with_rows(stock: Callable[..., Any]) -> Callable[..., Any]:
    """An inner model's ``get_image_features``, with its aggregator's rows added where there is one.

    They are added behind the projector, or behind a tower that ends with one (Qwen).

    Args:
        stock: the method of the stock class; its signature is kept, by which a host gives it what it takes.
    """
    signature = inspect.signature(stock)

    @wraps(stock)
    def get_image_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        part: VisionAggregator | None = getattr(self.outer[0], "region_aggregator", None)
        if part is None or _of_video.get():
            return stock(self, *args, **kwargs)
        host: TransformersHost = self.region_host
        inputs, seen = signature.bind(self, *args, **kwargs).arguments, list[HiddenStates]()

        def note(_args: Any, _kwargs: Any, output: Any) -> None:
            seen.append(output.hidden_states)

        def add(_args: Any, _kwargs: Any, output: Tensor) -> Tensor:
            return output + rows(part, host, inputs, seen[-1], output)

        def add_to_merged(_args: Any, _kwargs: Any, output: Any) -> Any:
            changed = copy.copy(output)  # the tower's own may be kept for other questions
            merged = output.pooler_output
            changed.pooler_output = merged + rows(part, host, inputs, output.hidden_states, merged)
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
