"""The vision aggregator in models of transformers': added behind the projector, before tiles are joined."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from pvit_ext.adapters.lion.aggregator import VisionAggregator, boundaries
from pvit_ext.hosts.base import HiddenStates
from pvit_ext.ops.hooks import own_hooks

_PROJECTOR = "multi_modal_projector"


def with_rows(stock: Callable[..., Any]) -> Callable[..., Any]:
    """An inner model's ``get_image_features``, with its aggregator's rows added where there is one.

    Args:
        stock: the method of the stock class; its signature is kept, by which a host gives it what it takes.
    """

    @wraps(stock)
    def get_image_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        part: VisionAggregator | None = getattr(self.outer[0], "region_aggregator", None)
        if part is None:
            return stock(self, *args, **kwargs)
        host, seen = self.region_host, list[HiddenStates]()

        def note(_args: Any, _kwargs: Any, output: Any) -> None:
            seen.append(output.hidden_states)

        def add(_args: Any, _kwargs: Any, output: Tensor) -> Tensor:
            return output + rows(part, seen[-1], output.shape[1]).to(output)

        kwargs["output_hidden_states"] = host.kept_layers
        with own_hooks([(host.tower, note), (self.get_submodule(_PROJECTOR), add)]):
            return stock(self, *args, **kwargs)

    return get_image_features


def rows(part: VisionAggregator, hidden: HiddenStates, cells: int) -> Tensor:
    """Rows (crops, P, D) of a tower's hidden layers (crops, P, C), of which a class token may be the first position.

    Args:
        part: the aggregator.
        hidden: of the tower.
        cells: P.
    """
    layers = []
    for number in part.layers:
        layer = hidden[number]
        assert layer is not None, f"hidden layer {number} of the vision tower was not kept"
        layers.append(layer[:, -cells:].flatten(0, 1))  # (crops * P, C)
    crops = len(layers[0]) // cells
    return part(layers, boundaries(crops, cells)).unflatten(0, (crops, cells))
