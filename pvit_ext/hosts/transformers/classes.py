"""Region classes for transformers' own, made when they are asked for.

They carry the names of those they replace: transformers writes the name into config.json (``architectures``), so that a
stock transformers loads the folder too.
"""

from __future__ import annotations

from typing import Any

from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.hosts.transformers.image_rows import with_rows, without_rows
from pvit_ext.hosts.transformers.inner import InnerMixin
from pvit_ext.hosts.transformers.outer import OuterMixin
from pvit_ext.ops.frozen import keep_frozen_in_eval

_CLASSES: dict[type, type] = {}


def region_class(stock: Any) -> Any:
    """The region class of a class of transformers', outer or inner; a region class is its own."""
    if issubclass(stock, (InnerMixin, OuterMixin)):
        return stock
    if stock not in _CLASSES:
        mixin = OuterMixin if hasattr(stock, "prepare_inputs_for_generation") else InnerMixin
        own: dict[str, Any] = {
            name: wrap(getattr(stock, name))
            for name, wrap in {"get_image_features": with_rows, "get_video_features": without_rows}.items()
            if mixin is InnerMixin and hasattr(stock, name)
        }
        if mixin is OuterMixin:
            own["_adopt_inner"] = staticmethod(adopt_inner)
        made = type(stock.__name__, (mixin, stock), {"__module__": __name__, "__doc__": stock.__doc__, **own})
        return _CLASSES.setdefault(stock, made)
    return _CLASSES[stock]


def adopt_inner(model: Any) -> None:
    """Give the inner model of an outer one its region class; its vision tower stays in evaluation mode if frozen."""
    inner = model.base_model
    inner.__class__ = region_class(type(inner))
    inner.outer, inner.pending = (model,), {}
    keep_frozen_in_eval(family_of(model.config).tower(inner))


def __getattr__(name: str) -> Any:
    """Find a model's class by its name, for pickle."""
    import transformers

    stock = getattr(transformers, name, None)
    if not isinstance(stock, type) or not issubclass(stock, transformers.PreTrainedModel):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return region_class(stock)
