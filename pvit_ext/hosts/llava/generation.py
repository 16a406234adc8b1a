"""Generation with regions, of the mixin that stands in front of each of LLaVA's model classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from pvit_ext.adapters.lion.parts import ROUTER
from pvit_ext.adapters.lion.router import mix_of_batch
from pvit_ext.hosts.base import cache_in, has_cache
from pvit_ext.hosts.llava.hints import holds_hints
from pvit_ext.hosts.llava.inputs import Extra, refuse_unbound
from pvit_ext.hosts.llava.repetition import counting_all_new_tokens, refuse_options_of_ids
from pvit_ext.hosts.llava.splice import pad_left
from pvit_ext.regions.region import Region, RegionError, Size
from pvit_ext.tokens.given_regions import regions_per_sample

Regions = Sequence[Sequence[Region] | None]
TaskNames = Tensor | Sequence[str | int | None] | None


class RegionGeneration:
    """LLaVA's ``generate``, with regions and the tasks of samples.

    Attributes:
        language_model_class: that LLaVA's class is made of.
        llava_generates: whether LLaVA has a ``generate`` for it.
    """

    language_model_class: ClassVar[Any]
    llava_generates: ClassVar[bool] = True

    def _mix(
        self,
        tasks: TaskNames,
        regions: Regions | None,
        batch: Tensor | None,
        questions: Tensor | None,
        cache: Any = None,
    ) -> Tensor | None:
        router, embeddings = getattr(self.get_model(), ROUTER, None), self.get_input_embeddings  # type: ignore[attr-defined]
        continued = partial(has_cache, cache)
        return mix_of_batch(self.config, router, embeddings, tasks, regions, batch, questions, continued)  # type: ignore[attr-defined]

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        tasks: Tensor | None = None,
        tokenizer: Any = None,  # of stop strings: transformers 5 hands it on to the model
        **kwargs: Any,
    ) -> Any:
        """What a step of generation gets, with the task of each row, which transformers has repeated for beams."""
        inputs = self._prepare_step(input_ids, past_key_values, inputs_embeds, **kwargs)
        return inputs if tasks is None else {**inputs, "tasks": tasks}

    def _prepare_step(
        self, input_ids: Tensor, past_key_values: Any, inputs_embeds: Tensor | None, **kwargs: Any
    ) -> Any:
        """LLaVA's method, without the empty ``past_key_values`` that it adds to the ``cache`` of transformers 5.24."""
        if "cache" not in kwargs:
            stock = super().prepare_inputs_for_generation  # type: ignore[misc]
            return stock(input_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds, **kwargs)
        images = {name: kwargs.pop(name, None) for name in ("images", "image_sizes")}
        prepare = self.language_model_class.prepare_inputs_for_generation
        inputs = prepare(self, input_ids, inputs_embeds=inputs_embeds, **kwargs)
        return {**inputs, **{name: value for name, value in images.items() if value is not None}}

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        images: Any = None,
        image_sizes: list[Size] | None = None,
        regions: Regions | None = None,
        region_extra: Extra | None = None,
        tower_output: Any = None,
        tasks: TaskNames = None,
        questions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """LLaVA's generate, which returns new tokens only; without ``regions`` it is LLaVA's own, where LLaVA has one.

        With ``regions``, even empty ones, prompts are padded on the left whatever the config says: generation continues
        at the right end. transformers 4.36 and 4.37 put BOS before the new tokens, with regions and without.
        """
        batch = kwargs.get("inputs_embeds") if inputs is None else inputs
        cache = cache_in(kwargs) if inputs is None else None  # else the prompt is whole
        if regions is not None:
            regions = regions_per_sample(regions, 0 if batch is None else len(batch))
        if (mix := self._mix(tasks, regions, batch, questions, cache)) is not None:
            kwargs["tasks"] = mix
        if batch is not inputs and images is None and regions is None:
            return self._generate_from_embeddings(**kwargs)
        special = tower_output is not None or holds_hints(inputs)
        if regions is None and self.llava_generates and not special:
            refuse_unbound(inputs)
            return super().generate(inputs, images=images, image_sizes=image_sizes, **kwargs)  # type: ignore[misc]
        if inputs is None:
            raise RegionError("there is no prompt: pass its ids (B, L) as inputs=")
        _, position_ids, attention_mask, _, inputs_embeds, _ = self.prepare_inputs_labels_for_multimodal(  # type: ignore[attr-defined]
            inputs, kwargs.pop("position_ids", None), kwargs.pop("attention_mask", None), None, None,
            images, image_sizes, regions, region_extra, None, tower_output,
        )  # fmt: skip
        if inputs_embeds is None:
            inputs_embeds = self.get_model().embed_tokens(inputs)  # type: ignore[attr-defined]
        if attention_mask is not None:
            inputs_embeds, attention_mask, position_ids = pad_left(inputs_embeds, attention_mask, position_ids)
        return self._generate_from_embeddings(
            position_ids=position_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )

    def _generate_from_embeddings(self, **options: Any) -> Any:
        own = self.generation_config  # type: ignore[attr-defined]
        refuse_options_of_ids(own, options)
        return self.language_model_class.generate(self, **counting_all_new_tokens(own, options))
