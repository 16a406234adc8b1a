"""The mixin before an inner model's class (``LlavaModel``, ``Qwen2_5_VLModel``): region tokens into its embeddings.

Transformers' own forward does all the rest. It asks ``get_input_embeddings()`` for the embedding layer, and gets one
that writes region tokens while a forward with regions runs. Without regions, and out of training, all is stock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lion.aggregator import dummy_rows
from pvit_ext.adapters.lion.routing import routed
from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.hosts.base import HiddenStates, ImageViews, cache_in, has_cache
from pvit_ext.hosts.stored_vision import STORED_IMAGES, TOWER_OUTPUT
from pvit_ext.hosts.transformers.appended_rows import IMAGE_ROWS, appending_part, refuse_unbound, row_id
from pvit_ext.hosts.transformers.batch import Extra, RegionBatch, build_inputs, dummy_inputs, is_cross
from pvit_ext.hosts.transformers.hints import hint_of, write_hints
from pvit_ext.hosts.transformers.host import TransformersHost
from pvit_ext.hosts.transformers.injection import align_right, check_counts, keep_in_graph, write_tokens
from pvit_ext.regions.region import Region, RegionError, Size
from pvit_ext.tokens.given_regions import regions_per_sample
from pvit_ext.tokens.region_module import RegionModule


@dataclass(frozen=True)
class Pending:
    """Region tokens that a running forward has still to write.

    Args:
        tokens: (B, K, D), right-aligned; of a dummy region (1, S, D); None with hints or rows alone to write.
        dummy: they belong nowhere, and only have to be in the graph.
        rows: (B, K, D), right-aligned, that the vision aggregator appends; None without.
        unseen: (1, D), a row of the aggregator that belongs nowhere, and only has to be in the graph; None without.
    """

    tokens: Tensor | None
    dummy: bool = False
    rows: Tensor | None = None
    unseen: Tensor | None = None


class InnerMixin:
    """Adds regions to an inner model's class; stands before it in the bases.

    Attributes:
        outer: the model that holds it and the region modules; in a tuple, so that it is no child.
        pending: region tokens by the thread whose forward runs.
        stored_vision: the run's cache of the vision tower, if it has one.
    """

    outer: tuple[Any, ...]
    pending: dict[int, Pending]
    stored_vision: StoredVision | None = None
    training: bool

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: transformers 5 maps no old keys to new ones for a class of another package.

        A checkpoint in the hub's layout would leave its language model random.
        """
        return False

    @property
    def region_host(self) -> TransformersHost:
        """This model as region modules see it."""
        encoder, aggregator = self._region_module().region_encoder, getattr(self.outer[0], "region_aggregator", None)
        read = () if encoder is None else encoder.feature_layers
        return TransformersHost(self, (*read, *(() if aggregator is None else aggregator.layers)))

    def get_input_embeddings(self) -> Any:
        """The embedding layer; while a forward with regions runs, one that writes their tokens."""
        stock = super().get_input_embeddings()  # type: ignore[misc]
        if not self.pending or get_ident() not in self.pending:
            return stock
        return partial(self._embed, stock)

    def _embed(self, stock: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        pending, embeds = self.pending.pop(get_ident()), write_hints(self.outer[0], stock(ids), ids)
        if pending.unseen is not None:
            embeds = keep_in_graph(embeds, pending.unseen)
        if pending.rows is not None:
            embeds = write_tokens(embeds, ids == row_id(self.outer[0].config), pending.rows)
        if pending.tokens is None:
            return embeds
        if pending.dummy:
            return keep_in_graph(embeds, pending.tokens)
        return write_tokens(embeds, ids == self.region_host.token_id, pending.tokens)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        regions: Sequence[Sequence[Region] | None] | None = None,
        region_sizes: Sequence[Size] | None = None,
        region_views: Sequence[ImageViews] | None = None,
        region_extra: Extra | None = None,
        region_tokens: Tensor | None = None,
        image_rows: Tensor | None = None,
        stored_images: Sequence[int] | None = None,
        tower_output: Any = None,
        tasks: Tensor | Sequence[str | int | None] | None = None,
        questions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stock forward, with region tokens where their placeholders stand.

        Args:
            input_ids: (B, L) with S ids of ``region_host.token_id`` per region.
            regions: of each sample, in the order of their placeholders, as the region processor returns them.
            region_sizes: (width, height) of each upright image.
            region_views: what the vision tower sees of each image.
            region_extra: per image the encoder's ``preprocess`` output, or None.
            region_tokens: (B, K, D), right-aligned, from :meth:`region_tokens`, in place of the four above.
            image_rows: (B, K, D), right-aligned, that the vision aggregator appends, where the tower has run.
            stored_images: number of each image in the run's cache of the vision tower, if it has one.
            tower_output: what the vision tower returns for the images, where that is known; it does not run then.
            tasks: names of :attr:`RegionConfig.lion_tasks`, one for each sample, by default those that regions tell, or
                the places of ``region_tokens``.
            questions: by which a router chooses otherwise, of :func:`~pvit_ext.adapters.lion.router.pad_questions`.
            kwargs: of the stock forward.

        Raises:
            RegionError: naming the sample, when regions, placeholders and images do not fit together.
        """
        kwargs["input_ids"] = input_ids
        known = {STORED_IMAGES: stored_images, TOWER_OUTPUT: tower_output}
        kwargs.update({name: value for name, value in known.items() if value is not None})
        batch = kwargs.get("inputs_embeds") if input_ids is None else input_ids
        if regions is not None:
            regions = regions_per_sample(regions, 0 if batch is None else len(batch))
        mix = self.outer[0].mix(tasks, regions, batch, questions, cache_in(kwargs), region_tokens)
        unseen = None if image_rows is not None else self._unseen_rows(kwargs)
        given = (regions, region_sizes, region_views, region_extra)
        pending = self._pending_tokens(kwargs, given) if region_tokens is None else Pending(region_tokens)
        if pending is None or pending.dummy:
            self._refuse_unbound(input_ids)
        image_rows = self._run_tower(kwargs, image_rows)
        has_hints = input_ids is not None and hint_of(self.outer[0]) is not None
        if image_rows is not None or unseen is not None or has_hints:
            pending = replace(pending or Pending(None), rows=image_rows, unseen=unseen)
        if pending is not None and input_ids is None:
            raise RegionError("region_tokens were given without input_ids, in which <region> stands")
        with routed(mix):
            return super().forward(**kwargs) if pending is None else self._forward_with(pending, kwargs)  # type: ignore[misc]

    def _pending_tokens(self, kwargs: dict[str, Any], given: tuple[Any, Any, Any, Any]) -> Pending | None:
        """Tokens of a forward's regions, those of a dummy in training, or None; ``given`` is of ``RegionBatch.of``."""
        if any(given[0] or []):
            return Pending(self.region_tokens(kwargs, RegionBatch.of(*given), continued=has_cache(cache_in(kwargs))))
        if self.training and kwargs["input_ids"] is not None and self._region_module().facts.tokens_per_region:
            return Pending(self._dummy_tokens(kwargs), dummy=True)
        return None

    def _unseen_rows(self, kwargs: dict[str, Any]) -> Tensor | None:
        """Dummy rows of the vision aggregator in training on a batch without images; else None."""
        part = getattr(self.outer[0], "region_aggregator", None)
        shown = kwargs.get("pixel_values") is not None or "image" in (kwargs.get("mm_encoder_outputs") or {})
        if part is None or shown or not self.training or kwargs["input_ids"] is None:
            return None
        return dummy_rows(part)

    def _run_tower(self, kwargs: dict[str, Any], image_rows: Tensor | None) -> Tensor | None:
        """Run the vision tower where it must run before the model; rows that the aggregator appends, or None."""
        appends = appending_part(self.outer[0]) is not None
        makes_rows = appends and kwargs.get("pixel_values") is not None
        if STORED_IMAGES in kwargs or TOWER_OUTPUT in kwargs or makes_rows:
            self.region_host.run_tower(kwargs)
        image_rows = kwargs.pop(IMAGE_ROWS, image_rows)
        if appends and image_rows is None:
            refuse_unbound(self.outer[0].config, kwargs["input_ids"])
        return image_rows

    def _forward_with(self, pending: Pending, kwargs: dict[str, Any]) -> Any:
        self.pending[get_ident()] = pending
        try:
            out = super().forward(**kwargs)  # type: ignore[misc]
            if get_ident() in self.pending:
                raise RegionError(
                    f"{type(self).__name__} reads its embeddings past get_input_embeddings: not supported"
                )
            return out
        finally:
            self.pending.pop(get_ident(), None)

    def region_tokens(self, inputs: dict[str, Any], batch: RegionBatch, continued: bool = False) -> Tensor:
        """Region tokens (B, K, D) of a batch, right-aligned.

        Args:
            inputs: keyword arguments of forward; the vision tower's output takes the place of the pixels.
            batch: the regions.
            continued: the prompt may be the end of a longer one, whose beginning is in a cache.

        Raises:
            RegionError: naming the sample, when regions, placeholders and images do not fit together.
        """
        module, host = self._region_module(), self.region_host
        ids = inputs.get("input_ids")
        if ids is None:
            raise RegionError("regions were given beside inputs_embeds: pass input_ids, in which <region> stands")
        if module.region_encoder is None or not module.facts.tokens_per_region:
            raise RegionError(
                f"the encoder {module.config.encoder!r} shows regions by text and pixels, so the model takes none: "
                "RegionProcessor puts them into the prompt and the image"
            )
        check_counts(ids, host.token_id, batch.counts, module.positions_per_region, continued)
        hidden = host.run_tower(inputs)
        crosses, device = is_cross(module.region_projector), next(module.region_projector.parameters()).device
        device = ids.device if device.type == "meta" else device  # offloaded modules run on the prompt's device
        tokens = module(build_inputs(host, module.region_encoder, crosses, batch, inputs, hidden, device))  # (M, S, D)
        return align_right(tokens, batch.counts)

    def _dummy_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """Tokens of a dummy region: every rank must run tower, region modules and embedding in every step, in order."""
        module, host = self._region_module(), self.region_host
        assert module.region_encoder is not None
        hidden: HiddenStates | None = host.run_tower(inputs)
        weight, crosses = next(module.region_projector.parameters()), is_cross(module.region_projector)
        tokens: Tensor = module(dummy_inputs(host, module.region_encoder, crosses, hidden, weight))
        return tokens

    def _refuse_unbound(self, ids: Tensor | None) -> None:
        """Refuse a placeholder, whose own embedding nobody trained; one id is the decoding loop, which has none."""
        if ids is not None and ids.shape[-1] > 1 and not torch.compiler.is_compiling():
            check_counts(ids, self.region_host.token_id, [0] * len(ids), 0, continued=True)

    def _region_module(self) -> RegionModule:
        module: RegionModule | None = self.outer[0].region_module
        assert module is not None
        return module
