"""What a processor knows of a model's region modules, in memory and in its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import APPENDED, CONFIG_KEY, EncoderFacts, RegionConfig, regions_from_json, regions_to_json
from pvit_ext.encoders.base import RegionEncoder, build_region_encoder
from pvit_ext.hosts.transformers.families import FAMILIES, family_key
from pvit_ext.hosts.transformers.families.base import Family, TowerConfig
from pvit_ext.hosts.transformers.keys import FILE_OPTIONS
from pvit_ext.hosts.transformers.truncation import check_cut
from pvit_ext.regions.region import RegionError, Size
from pvit_ext.tokens.processor import RegionProcessor, RegionSample

_GEOMETRY = frozenset(
    "size crop_size do_resize do_center_crop do_pad pad_size image_grid_pinpoints crop_to_patches min_patches "
    "max_patches do_pan_and_scan patch_size merge_size".split()
)
_FAMILY, _TOWER = "family", "tower"


@dataclass(frozen=True)
class ProcessorRegions:
    """A region encoder as processors need it, without its weights.

    Args:
        config: which encoder.
        facts: what it reported.
        family_key: of the model's family.
        tower: of the model's vision tower.
        unread: tokens of the processor's tokenizer that the model has no use for; see :func:`~.placeholder.unread_of`.
    """

    config: RegionConfig
    facts: EncoderFacts
    family_key: str
    tower: TowerConfig
    unread: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Any) -> ProcessorRegions | None:
        """What the config of a model tells; None for a model without regions."""
        if (values := getattr(config, CONFIG_KEY, None)) is None:
            return None
        chosen, facts = regions_from_json(values)
        if facts is None:
            raise ValueError(f"the config's {CONFIG_KEY} names an encoder that was never built: attach it to a model")
        key = family_key(config)
        return cls(chosen, facts, key, FAMILIES[key].tower_config(config))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, for processor_config.json."""
        return {**regions_to_json(self.config, self.facts), _FAMILY: self.family_key, _TOWER: asdict(self.tower)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ProcessorRegions:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: for what this version does not know.
        """
        rest = dict(values)
        key, tower = rest.pop(_FAMILY, None), rest.pop(_TOWER, None)
        config, facts = regions_from_json(rest)
        if key not in FAMILIES or facts is None or tower is None:
            raise ValueError(
                f"the processor's {CONFIG_KEY} = {values} is not complete; known families: {list(FAMILIES)}"
            )
        return cls(config, facts, key, TowerConfig(**tower))

    def is_for(self, config: Any) -> bool:
        """Whether this prepares samples as a model with this config needs them."""
        of_model = ProcessorRegions.of(config)
        return of_model is not None and of_model._of_samples() == self._of_samples()

    def _of_samples(self) -> str:
        """All that decides how a sample is prepared, as JSON: a list in a file may be a tuple in memory."""
        chosen, facts = self.config, self.facts
        tasks = (chosen.lion_tasks, chosen.lion_routing) if chosen.lion_adapters else None
        given = chosen.encoder, chosen.encoder_options, chosen.delimiters
        values = *given, facts.tokens_per_region, self.family_key, tasks, chosen.lion_tags, self.appends_rows
        return json.dumps(values, sort_keys=True)

    @property
    def appends_rows(self) -> bool:
        """Whether rows of the vision aggregator stand behind each image."""
        return self.config.lion_aggregator == APPENDED

    @property
    def family(self) -> Family:
        """The model's family."""
        return FAMILIES[self.family_key]

    @cached_property
    def encoder(self) -> RegionEncoder:
        """The encoder without weights, for what it does in data workers: preprocess, describe and paint."""
        with torch.device("meta"):
            return build_region_encoder(self.config, self.tower)

    @property
    def samples(self) -> RegionProcessor:
        """The region processor, which prepares samples."""
        positions = self.facts.tokens_per_region + 2 * bool(self.config.delimiters)
        tasks, style = Tasks.of(self.config), self.config.lion_tags
        return RegionProcessor(self.encoder, positions, tasks=tasks, tag_style=style, unread=self.unread)

    def __getstate__(self) -> dict[str, Any]:
        """Without the encoder, which a copy builds anew."""
        return {key: value for key, value in vars(self).items() if key != "encoder"}

    def check_call(self, kwargs: Mapping[str, Any]) -> None:
        """Refuse images that a single call resizes in its own way, unless the processor reports what it did.

        Raises:
            RegionError: naming the keywords.
        """
        names = {*kwargs, *(kwargs.get("images_kwargs") or {}), *(kwargs.get("common_kwargs") or {})}
        if (changed := sorted(names & _GEOMETRY)) and not self.family.reports_sizes:
            raise RegionError(
                f"{', '.join(changed)} in a call with regions: where pixels land is read from the processor's own "
                "values, so set them there, such as processor.image_processor.size = ..."
            )

    def for_model(
        self,
        processor: Any,
        out: Mapping[str, Any],
        prepared: Sequence[RegionSample],
        sizes: Sequence[Size],
        counts: Sequence[int],
        token_id: int,
    ) -> dict[str, Any]:
        """What the model gets beside the stock output.

        Args:
            processor: stock or with regions.
            out: its stock output.
            prepared: the samples.
            sizes: B (width, height) of the upright originals.
            counts: images of each text.
            token_id: of ``<region>``.

        Raises:
            RegionError: for a region that truncation cut off, or that a view crops away.
        """
        counted = [(len(one.regions), self.samples.positions_per_region * len(one.regions)) for one in prepared]
        names = [f"the {wanted} positions of its {regions} region(s)" for regions, wanted in counted]
        check_cut(out["input_ids"], token_id, [wanted for _, wanted in counted], names, "the text")
        views, regions, first = self.family.views(processor, out, sizes, counts), [], 0
        for sample, count in zip(prepared, counts, strict=True):
            regions.append([replace(region, image=first + region.image) for region in sample.regions])
            first += count
        tiled = self.encoder.reads_tiles
        seen = [(view.tiles if tiled and view.tiles else view.base) for view in views]
        self.samples.check([region for own in regions for region in own], seen, sizes)
        extra = [one for sample in prepared for one in sample.extra]
        # Plain tuples: BatchFeature.to() and the Trainer make tuples of one generator, which named ones refuse.
        plain = [tuple(view) for view in views]
        return {"regions": regions, "region_sizes": list(sizes), "region_views": plain, "region_extra": extra}


def stored_in(path: str | os.PathLike[str], **kwargs: Any) -> ProcessorRegions | None:
    """The region encoder that a processor's folder names, in the model's config.json or in processor_config.json.

    The model's comes first: it fits the weights, even if the processor was not saved again.

    Args:
        path: folder or hub id.
        kwargs: of ``from_pretrained``, such as ``revision``.
    """
    from transformers import AutoConfig, ProcessorMixin

    given = {key: value for key, value in kwargs.items() if key in FILE_OPTIONS and value is not None}
    try:
        config = AutoConfig.from_pretrained(path, **given)
    except (OSError, ValueError):  # a folder of a processor alone
        config = None
    if (of_model := ProcessorRegions.of(config)) is not None:
        return of_model
    values, _ = ProcessorMixin.get_processor_dict(path, **given)
    return ProcessorRegions.from_json(values[CONFIG_KEY]) if CONFIG_KEY in values else None
