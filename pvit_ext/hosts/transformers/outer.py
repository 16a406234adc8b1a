"""The mixin before an outer model's class (``LlavaForConditionalGeneration``): it holds the region modules.

Its ``forward`` is stock: what wraps or calls past it (peft, TRL) reaches the inner model all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from pvit_ext.adapters.lion.parts import ROUTER
from pvit_ext.adapters.lion.router import mix_of_batch
from pvit_ext.adapters.lion.routing import keep_routes
from pvit_ext.config import CONFIG_KEY, RegionConfig
from pvit_ext.hosts.base import ImageViews, cache_in, has_cache
from pvit_ext.hosts.stored_vision import TOWER_OUTPUT
from pvit_ext.hosts.transformers.appended_rows import IMAGE_ROWS, appending_part
from pvit_ext.hosts.transformers.batch import Extra, RegionBatch
from pvit_ext.hosts.transformers.hints import hint_of
from pvit_ext.hosts.transformers.model_regions import TransformersRegions
from pvit_ext.regions.region import Region, RegionError, Size
from pvit_ext.tokens.given_regions import regions_per_sample
from pvit_ext.tokens.region_module import RegionModule


class OuterMixin:
    """Adds regions to an outer model's class; stands before it in the bases."""

    _keys_to_ignore_on_save: Any
    config: Any
    generation_config: Any
    base_model: Any
    _adopt_inner: ClassVar[Callable[[Any], None]]
    """Gives the inner model its region class; of the module that makes these classes."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        TransformersRegions(self).create()
        type(self)._adopt_inner(self)

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: see :meth:`pvit_ext.hosts.transformers.inner.InnerMixin.is_custom_code`."""
        return False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """transformers' ``from_pretrained``, then the frozen encoder's own weights, checked against their sha256.

        Raises:
            ValueError: when region tensors are missing from a checkpoint whose config names a region encoder.
        """
        path = pretrained_model_name_or_path
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        own = TransformersRegions(model)
        own.check_missing(info["missing_keys"], path)
        own.finish(path)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' ``save_pretrained`` without the frozen encoder, which the config names by file and sha256."""
        self._keys_to_ignore_on_save = TransformersRegions(self).keys_to_ignore()
        return super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    @property
    def region_config(self) -> RegionConfig | None:
        """The checkpoint's :class:`RegionConfig`."""
        return None if (stored := TransformersRegions(self).stored) is None else stored.config

    @property
    def region_module(self) -> RegionModule | None:
        """Encoder and projector as one module; a view of the two children."""
        return TransformersRegions(self).module

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        regions: Sequence[Sequence[Region] | None] | None = None,
        region_sizes: Sequence[Size] | None = None,
        region_views: Sequence[ImageViews] | None = None,
        region_extra: Extra | None = None,
        tasks: Tensor | Sequence[str | int | None] | None = None,
        questions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' ``generate``; regions as the region processor returns them.

        Tower and region modules run once, before the prompt is repeated for beams or several answers.

        Raises:
            RegionError: naming the sample, when regions, placeholders and images do not fit together.
            ValueError: for tasks that the model does not know.
        """
        ids, embeds = kwargs.get("input_ids", inputs), kwargs.get("inputs_embeds")
        batch, cache = (embeds, cache_in(kwargs)) if ids is None else (ids, None)
        if regions is not None:
            regions = regions_per_sample(regions, 0 if batch is None else len(batch))
        region_tokens = kwargs.get("region_tokens")
        if (mix := self.mix(tasks, regions, batch, questions, cache, region_tokens)) is not None:
            kwargs["tasks"] = mix
        appends = appending_part(self) is not None and kwargs.get("pixel_values") is not None
        writes = any(regions or []) or region_tokens is not None or appends
        if writes:
            self._refuse_options(kwargs)
        if writes or kwargs.get(TOWER_OUTPUT) is not None:
            kwargs["input_ids"], inputs = kwargs.get("input_ids", inputs), None
            if any(regions or []):
                batch = RegionBatch.of(regions or [], region_sizes, region_views, region_extra)
                kwargs["region_tokens"] = self.base_model.region_tokens(kwargs, batch)
            else:
                self.base_model.region_host.run_tower(kwargs)
            _drop_cached_images(kwargs, self.config.image_token_id)
        if writes or hint_of(self) is not None or appending_part(self) is not None:
            kwargs["suppress_tokens"] = self._never_written(kwargs)
        return super().generate(inputs, **kwargs)  # type: ignore[misc]

    def mix(
        self,
        tasks: Any,
        regions: Sequence[Any] | None,
        batch: Tensor | None,
        questions: Tensor | None,
        cache: Any = None,
        region_tokens: Tensor | None = None,
    ) -> Tensor | None:
        """Weights (B, T) of each task's gates; see :func:`~pvit_ext.adapters.lion.router.mix_of_batch`.

        Where region tokens are given, a prompt has regions if it has places for them.
        """
        if region_tokens is not None and batch is not None and not isinstance(tasks, Tensor) and self._has_adapters:
            regions = (batch == self.base_model.region_host.token_id).flatten(1).any(1).tolist()
        router, embeddings = getattr(self, ROUTER, None), self.get_input_embeddings  # type: ignore[attr-defined]
        continued = partial(has_cache, cache)
        return mix_of_batch(self.config, router, embeddings, tasks, regions, batch, questions, continued)

    @property
    def _has_adapters(self) -> bool:
        """Whether the task of a sample matters; without, no device is waited for."""
        return bool((getattr(self.config, CONFIG_KEY, None) or {}).get("lion_adapters"))

    def _refuse_options(self, kwargs: dict[str, Any]) -> None:
        if kwargs.get("assistant_model") is not None:
            raise RegionError(
                "assistant_model would draft without regions and rows of images: leave it out; "
                "prompt_lookup_num_tokens needs no model"
            )
        config = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None)):
            raise RegionError(
                "prefill_chunk_size splits the prompt, and regions and rows of images lose their place: leave it out"
            )

    def _never_written(self, kwargs: dict[str, Any]) -> list[int]:
        """Ids to suppress: placeholders that the model wrote itself would shift the positions of all regions and rows.

        ``<hint>`` would be read as the hint vector, in any prompt.
        """
        config = kwargs.get("generation_config") or self.generation_config
        given = kwargs.get("suppress_tokens", getattr(config, "suppress_tokens", None))
        facts = self.base_model.region_host.facts
        own = facts.token_id, facts.hint_token_id, facts.row_token_id
        return [*(given or []), *(one for one in own if one is not None)]

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own; blocks that run again keep their adapters."""
        super()._set_gradient_checkpointing(*args, **kwargs)  # type: ignore[misc]
        keep_routes(self)  # type: ignore[arg-type]

    def prepare_inputs_for_generation(
        self,
        *args: Any,
        inputs_embeds: Tensor | None = None,
        region_tokens: Tensor | None = None,
        image_rows: Tensor | None = None,
        tasks: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Pass tokens and rows with the prompt only; the signature tells transformers' check of keywords of them."""
        if inputs_embeds is not None:  # in the signature, where transformers looks for it
            kwargs["inputs_embeds"] = inputs_embeds
        out = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True):
            given = {"region_tokens": region_tokens, IMAGE_ROWS: image_rows}
            out.update({name: value for name, value in given.items() if value is not None})
        if tasks is not None:
            out["tasks"] = tasks
        return out


def _drop_cached_images(kwargs: dict[str, Any], image_token: int) -> None:
    """Use the vision tower's output only for regions in a later turn, whose images are in the cache already.

    Raises:
        RegionError: when some of the images are cached and others are not.
    """
    cache = cache_in(kwargs)
    length = 0 if cache is None else int(cache.get_seq_length())
    if not length or "mm_encoder_outputs" not in kwargs:
        return
    images = kwargs["input_ids"] == image_token
    if not bool(images[:, length:].any()):
        kwargs["mm_encoder_outputs"].pop("image", None)
    elif bool(images[:, :length].any()):
        raise RegionError("the cache holds some of the images and not the others: generate from the whole prompt")
