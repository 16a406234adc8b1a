"""The mixin that stands in front of each of LLaVA's model classes; LLaVA's own code runs behind it.

Without regions every call goes to stock LLaVA unchanged. A checkpoint keeps LLaVA's ``model_type``; its config gains
one nested key (:data:`~pvit_ext.config.CONFIG_KEY`) and its inner model two modules: ``region_encoder`` and
``region_projector``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pvit_ext.adapters.lion.routing import keep_routes, routed
from pvit_ext.config import RegionConfig
from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.hosts.llava import compat, hints, image_rows
from pvit_ext.hosts.llava.generation import RegionGeneration, Regions, TaskNames
from pvit_ext.hosts.llava.image_layout import ImageLayout, count_crops
from pvit_ext.hosts.llava.inputs import WITHOUT_TOKENS, Extra, build_inputs, check_complete, refuse_unbound
from pvit_ext.hosts.llava.model_regions import LlavaRegions, check_missing_tower
from pvit_ext.hosts.llava.patching import TOWER_POINTS, patched
from pvit_ext.hosts.llava.splice import inject_region_tokens, mark_regions
from pvit_ext.hosts.llava.template_check import follow_checkpoint
from pvit_ext.hosts.llava.tower import capture_feature_maps
from pvit_ext.hosts.llava.vision_tower import VisionTower, finish_tower
from pvit_ext.hosts.stored_vision import returning
from pvit_ext.ops.frozen import keep_frozen_in_eval
from pvit_ext.regions.region import RegionError, Size
from pvit_ext.tokens.binding import BoundRegions, bind_to_images
from pvit_ext.tokens.given_regions import read_sizes, regions_per_sample
from pvit_ext.tokens.region_module import RegionModule
from pvit_ext.tokens.serialization import load_region_modules, read_region_config


class RegionMixin(RegionGeneration):
    """Adds ``regions`` to a LLaVA class; stands before it in the bases."""

    fast_tokenizer: ClassVar[bool] = False
    stored_vision: StoredVision | None = None
    _keys_to_ignore_on_save: Any
    # LLaVA saves its frozen tower with every checkpoint and reads it from the tower's own files: no warning about that
    _keys_to_ignore_on_load_unexpected: ClassVar[Any] = [r"\.vision_tower\."]

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        config.model_type = type(config).model_type  # released checkpoints of LLaVA say "llava"
        with patched(TOWER_POINTS), compat.vision_tower_from_config():
            super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        keep_frozen_in_eval(self.get_vision_tower())  # type: ignore[attr-defined]
        LlavaRegions(self).create()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """transformers' ``from_pretrained``, then the frozen encoder's own weights, checked against their sha256.

        Raises:
            ValueError: when region tensors are missing from a checkpoint whose config names a region encoder, or some
                of its vision tower's from one that says it holds them.
        """
        path, kwargs = pretrained_model_name_or_path, compat.default_dtype_is_float32(kwargs)
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        missing = compat.missing_keys(model, info)
        finish = finish_tower if isinstance(model.get_vision_tower(), VisionTower) else check_missing_tower
        finish(model, missing, path)
        own = LlavaRegions(model)
        own.check_missing(missing, path)
        own.finish(path)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' ``save_pretrained`` without the frozen encoder, which the config names by file and sha256."""
        self._keys_to_ignore_on_save = LlavaRegions(self).keys_to_ignore()
        if kwargs.get("state_dict") is not None:
            kwargs["state_dict"] = compat.own_storage(kwargs["state_dict"])
        return super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def initialize_vision_tokenizer(self, model_args: Any, tokenizer: Any) -> None:
        """LLaVA's last step of building a model for training; then the region modules its arguments ask for."""
        super().initialize_vision_tokenizer(model_args, tokenizer)  # type: ignore[misc]
        keep_frozen_in_eval(self.get_vision_tower())  # type: ignore[attr-defined]
        if not hasattr(model_args, "region_config"):
            return
        follow_checkpoint(model_args.version, self, tokenizer)
        self.model_arguments = model_args  # for the trackers' config
        folder = model_args.region_modules
        config = model_args.region_config(self.region_config)
        facts = None if folder is None else read_region_config(folder).facts
        with torch.random.fork_rng(devices=[]):  # --seed decides how they start, whatever ZeRO-3 drew on its way here
            torch.default_generator.manual_seed(torch.initial_seed())
            LlavaRegions(self).replace(config, folder or ".", filled_later=folder is not None, facts=facts)
        if folder is not None:
            load_region_modules(self, folder)

    @property
    def region_config(self) -> RegionConfig | None:
        """The checkpoint's :class:`RegionConfig`, or None for a stock LLaVA checkpoint."""
        return None if (stored := LlavaRegions(self).stored) is None else stored.config

    @property
    def region_module(self) -> RegionModule | None:
        """Encoder and projector as one module, or None; a view of the two that the inner model registers."""
        return LlavaRegions(self).module

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        images: Any = None,
        image_sizes: list[Size] | None = None,
        return_dict: bool | None = None,
        regions: Regions | None = None,
        region_extra: Extra | None = None,
        stored_images: list[int] | None = None,
        tower_output: Any = None,
        tasks: TaskNames = None,
        questions: Tensor | None = None,
        cache: Any = None,
    ) -> Any:
        """LLaVA's forward; regions as in :meth:`prepare_inputs_labels_for_multimodal`.

        ``tasks`` are names of :attr:`RegionConfig.lion_tasks`, one for each sample, by default those that regions tell,
        or the adapters that a router chooses by ``questions`` (:func:`~pvit_ext.adapters.lion.router.pad_questions`).
        No ``**kwargs`` on purpose: transformers 5 would then change how it averages the loss. ``cache`` is what
        transformers 5.24 calls ``past_key_values``.
        """
        batch = input_ids if inputs_embeds is None else inputs_embeds
        if regions is not None:
            regions = regions_per_sample(regions, 0 if batch is None else len(batch))
        if inputs_embeds is not None and any(regions or []):
            raise RegionError("regions were given beside inputs_embeds: pass input_ids, in which <region> stands")
        past = past_key_values if cache is None else cache
        mix = self._mix(tasks, regions, batch, questions, past)
        if inputs_embeds is None and input_ids is not None:
            prepared = self.prepare_inputs_labels_for_multimodal(
                input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes,
                regions, region_extra, stored_images, tower_output,
            )  # fmt: skip
            input_ids, position_ids, attention_mask, past_key_values, inputs_embeds, labels = prepared
        named = {} if position_ids is None else {"position_ids": position_ids}  # MPT has none
        named[compat.cache_name(self.language_model_class.forward)] = past_key_values if cache is None else cache
        with routed(mix):
            return self.language_model_class.forward(
                self,
                **named,
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                labels=labels,
                use_cache=use_cache,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=return_dict,
            )

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own, which LLaVA's MPT replaces by an older one; blocks that run again keep their adapters."""
        PreTrainedModel._set_gradient_checkpointing(self, *args, **kwargs)  # type: ignore[arg-type]
        keep_routes(self)  # type: ignore[arg-type]

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Any,
        image_sizes: list[Size] | None = None,
        regions: Regions | None = None,
        region_extra: Extra | None = None,
        stored_images: list[int] | None = None,
        tower_output: Any = None,
    ) -> tuple[Any, ...]:
        """LLaVA's splice of the image tokens, then region tokens where ``REGION_TOKEN_INDEX`` stands.

        Args:
            input_ids: (B, L) with LLaVA's IMAGE_TOKEN_INDEX and one REGION_TOKEN_INDEX per region.
            image_sizes: (width, height) of every upright original, dummy images of text-only samples included.
            regions: per sample its regions in the order of their placeholders, as Query takes them, or None.
            region_extra: per image the encoder's ``preprocess`` output, or None where an image has no region.
            stored_images: number of each image in the run's cache of the vision tower, if it has one.
            tower_output: what the vision tower returns for the images, where that is known; it does not run then.

        Raises:
            RegionError: naming the sample, when regions, placeholders and images do not fit together.
        """
        stock = hints.writing(self, super().prepare_inputs_labels_for_multimodal)  # type: ignore[misc]
        stock = image_rows.appending(self, stock)
        regions = regions_per_sample(regions, len(input_ids))
        has_regions = any(regions or [])
        encoder = self._encoder_of_tokens(has_regions)
        can_run = encoder is not None and images is not None and input_ids.shape[1] > 1
        if not has_regions and not (can_run and self.training):  # type: ignore[attr-defined]
            refuse_unbound(input_ids)
            with self._tower_returning(stored_images, tower_output):
                return stock(input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes)
        encoder = check_complete(encoder, images)
        sizes = read_sizes(image_sizes, "image_sizes")
        bound = bind_to_images(input_ids, attention_mask, regions or [None] * len(input_ids), sizes)
        module = self.region_module
        assert module is not None
        batch = mark_regions(input_ids, labels, attention_mask, module.positions_per_region)
        tower = self.get_vision_tower()  # type: ignore[attr-defined]
        layers = [*encoder.feature_layers, *[tower.select_layer] * bool(module.config.cross_layers)]
        with self._tower_returning(stored_images, tower_output), capture_feature_maps(tower, layers) as maps:
            _, position_ids, mask, past_key_values, embeds, marked = stock(
                batch.input_ids, position_ids, batch.attention_mask, past_key_values, batch.labels, images, image_sizes
            )
        tokens = self.encode_regions(self._region_inputs(bound, sizes, maps, images, region_extra))  # (M, S, D)
        if has_regions:
            embeds, marked = inject_region_tokens(embeds, marked, tokens, bound.regions)
        else:
            # Under ZeRO every rank must run every module in every step, or the others wait for it for ever.
            embeds = embeds + (0.0 * tokens).sum().to(embeds.dtype)
        if attention_mask is not None:
            mask = mask.to(attention_mask.dtype)
        elif not has_regions:
            mask = None  # as LLaVA
        return None, position_ids, mask, past_key_values, embeds, None if labels is None else marked

    def _encoder_of_tokens(self, has_regions: bool) -> Any:
        """The region encoder, or None where there is none or it gives no tokens, which regions would need."""
        encoder = getattr(self.get_model(), "region_encoder", None)  # type: ignore[attr-defined]
        if encoder is None or encoder.tokens_per_region:
            return encoder
        if has_regions:
            raise RegionError(WITHOUT_TOKENS.format(encoder.name))
        return None

    def encode_images(self, images: Tensor) -> Tensor:
        """LLaVA's projected features (crops, P, D) of pixels, with the vision aggregator's added where there is one."""
        return image_rows.encode_images(self, images, super().encode_images)  # type: ignore[misc]

    def _tower_returning(self, stored_images: list[int] | None, output: Any) -> AbstractContextManager[None]:
        tower = getattr(self.get_vision_tower(), "vision_tower", None)  # type: ignore[attr-defined]
        return returning(tower, self.stored_vision, stored_images, output)

    def encode_regions(self, inputs: RegionInputs) -> Tensor:
        """Region tokens (M, S, D) of regions and what this model's vision tower saw of their images."""
        inputs.tower = self.get_vision_tower()  # type: ignore[attr-defined]
        assert self.region_module is not None
        tokens: Tensor = self.region_module(inputs)  # (M, S, D)
        return tokens

    def _region_inputs(
        self, bound: BoundRegions, sizes: Sequence[Size] | None, maps: list[Tensor], images: Any, extra: Extra | None
    ) -> RegionInputs:
        inner = self.get_model()  # type: ignore[attr-defined]
        device = next(inner.region_projector.parameters()).device
        crops, layout = count_crops(images), ImageLayout.of(self)
        return build_inputs(inner.region_encoder, bound, sizes, maps, crops, extra, layout, device)
