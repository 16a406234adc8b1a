"""Training data for models of transformers: records through the region processor, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from pvit_ext.config import RECORD_KEY
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.cache.vision import StoredVision, number_of
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.data.records import Record, RecordError, Records
from pvit_ext.data.schema import images_of
from pvit_ext.encoders.own_tower import StoredMaps
from pvit_ext.hosts.stored_vision import STORED_IMAGES
from pvit_ext.hosts.transformers.batch import join_padded
from pvit_ext.hosts.transformers.dialogue import Dialogue, begins_with_bos, render
from pvit_ext.hosts.transformers.expanded_text import noting, spans_in
from pvit_ext.hosts.transformers.row_positions import image_pattern
from pvit_ext.hosts.transformers.stored_processor import Reading, with_images_by
from pvit_ext.hosts.transformers.vision_pass import BLANK_SIZE
from pvit_ext.prompt import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER
from pvit_ext.regions.jitter import jitter_box
from pvit_ext.tokens.processor import RegionProcessor, RegionPrompt, RegionSample

IGNORE_INDEX = -100
_OF_IMAGES = ("region_sizes", "region_views", "region_extra")


class RegionDataset(RecordDataset):
    """Training samples for a model of transformers, each a batch of one.

    Args:
        records, bad_records: of the data file.
        processor: with regions.
        data_args: has ``region_jitter``.
        limit: positions that a sample may take.
        seed: of the run.
    """

    def __init__(
        self, records: Records, bad_records: BadRecords, processor: Any, data_args: Any, limit: int, seed: int
    ) -> None:
        super().__init__(records, bad_records)
        self.processor = self._stock = processor
        self.tokenizer, self.data_args = processor.tokenizer, data_args
        self.limit, self.seed, self.noting = limit, seed, noting(processor)
        self.region_processor: RegionProcessor = processor.pvit_regions.samples

    @property
    def positions_per_region(self) -> int:
        """S, positions of the prompt that one region takes."""
        positions: int = self.processor.pvit_regions.samples.positions_per_region
        return positions

    @property
    def positions_behind_image(self) -> int:
        """Rows that a vision aggregator appends to an image that is counted as 128 positions."""
        known = self.processor.pvit_regions
        return known.family.rows_behind(self.processor, self.processor.image_token * 128) if known.appends_rows else 0

    def use_stored(self, maps: StoredMaps | None, vision: StoredVision | None) -> None:
        """Like the base class's, and let the processor read its image processor's stored output."""
        super().use_stored(maps, vision)
        self.processor = self._stock if vision is None else with_images_by(self._stock, Reading(vision))
        self.noting = noting(self.processor)

    def _item(self, record: Record, draw: np.random.Generator) -> dict[str, Any]:
        if "image" not in record.data:
            return self._without_image(record, self.tagged(record, draw))
        name, samples, turns = record.location, self.region_processor, record.data["conversations"]
        images = self.images(record)
        sizes, most = [image.size for image in images], self.data_args.region_jitter
        regions = [jitter_box(region, most, draw) for region in record.resolve(sizes)]
        prompt = samples.prompt(self.tagged(record, draw), regions, sizes, name, record.data.get(RECORD_KEY))
        turns = [{**turn, "value": text} for turn, text in zip(turns, prompt.texts, strict=True)]
        dialogue = render(self.processor, turns, name)
        self._check_images(turns, len(images), name)
        one = RegionPrompt([dialogue.text], prompt.regions, prompt.given, name)
        expanded = dialogue.expanded(REGION_PLACEHOLDER, samples.positions_per_region)
        sample = samples.show(one, images, images_of(record.data))
        return self._encoded(sample, name, expanded) | self._task(record, bool(prompt.given))

    def _without_image(self, record: Record, texts: Sequence[str]) -> dict[str, Any]:
        """A record of text alone, with a blank image behind its end, which none of its answers sees.

        Every rank has to run every module in every step, or ZeRO and DDP wait or mix up gradients; LLaVA shows its
        tower a blank image for the same reason.
        """
        name, samples = record.location, self.region_processor
        turns = [{**turn, "value": text} for turn, text in zip(record.data["conversations"], texts, strict=True)]
        dialogue = render(self.processor, turns, name)
        prompt = RegionPrompt([dialogue.text + self.processor.image_token], [], [], name)
        blank = Image.new("RGB", BLANK_SIZE)
        if self.stored_vision is not None:
            blank = self.stored_vision.mark(blank)
        return self._encoded(samples.show(prompt, [blank]), name, dialogue) | self._task(record, False)

    def _encoded(self, sample: RegionSample, name: str, dialogue: Dialogue) -> dict[str, Any]:
        """The item of one sample, with the views of its images, whether they have regions or not.

        Args:
            sample: prepared.
            name: of the record.
            dialogue: its text, with a ``<region>`` for each position.
        """
        options = {"return_tensors": "pt", "return_offsets_mapping": True}
        if begins_with_bos(self.tokenizer, dialogue.text):
            options["add_special_tokens"] = False
        out, known = self.noting.encode([sample], **options), self.processor.pvit_regions
        if "regions" not in out and known.facts.tokens_per_region:
            token_id = self.tokenizer.convert_tokens_to_ids(REGION_PLACEHOLDER)
            counts = [len(sample.sizes)]
            out.data.update(known.for_model(self.processor, out, [sample], sample.sizes, counts, token_id))
        item, (expanded,) = dict(out), self.noting.tokenizer.texts
        shown = image_pattern(self.processor, known.family)
        spans = spans_in(expanded, dialogue.text, shown, dialogue.answers, name)
        item["labels"] = self._labels(item["input_ids"], item.pop("offset_mapping")[0], spans)
        if known.family.sees_prompt_both_ways:
            item["token_type_ids"] = (item["labels"] != IGNORE_INDEX).long().cummax(-1).values  # (1, L)
        self._check(item, name)
        if self.stored_vision is not None:
            item[STORED_IMAGES] = [number_of(image) for image in sample.images]
        return item

    def _labels(self, ids: Tensor, offsets: Tensor, spans: Sequence[Sequence[int]]) -> Tensor:
        """Ids (1, L) of the answers, and :data:`IGNORE_INDEX` elsewhere.

        Args:
            ids: (1, L).
            offsets: (L, 2) start and end of each token in the text.
            spans: (start, end) of each answer in it.
        """
        starts, ends = offsets.unbind(-1)
        learned = torch.zeros_like(starts, dtype=torch.bool)
        for start, end in spans:
            learned |= (starts < end) & (ends > start)
        learned &= ids[0] != self.tokenizer.convert_tokens_to_ids(REGION_PLACEHOLDER)
        return torch.where(learned, ids, IGNORE_INDEX)

    def _check_images(self, turns: Sequence[dict[str, str]], count: int, name: str) -> None:
        texts = [turn["value"] for turn in turns]
        if (found := sum(text.count(IMAGE_PLACEHOLDER) for text in texts)) != count:
            raise RecordError(f"{name}: {found} <image> in its conversation, {count} image(s)")

    def _check(self, item: dict[str, Any], name: str) -> None:
        taken = item["input_ids"].shape[1]
        if taken > self.limit:
            raise RecordError(f"{name}: it takes {taken} positions, --model_max_length is {self.limit}; raise it")
        if not bool((item["labels"] != IGNORE_INDEX).any()):
            raise RecordError(f"{name}: no answer token is there to learn from")


class RegionCollator:
    """Batches of items, as the processor makes them of several texts at once, padded on the right.

    Args:
        pad_token_id: of the tokenizer.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.fill = {"input_ids": pad_token_id, "labels": IGNORE_INDEX}

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join items of one sample each."""
        batch: dict[str, Any] = {}
        for key in dict.fromkeys(key for item in items for key in item):
            if key == STORED_IMAGES:
                batch[key] = [number for item in items for number in item[key]]
            elif not key.startswith("region"):
                batch[key] = self._join(key, [item for item in items if key in item])
        return batch | _regions(items)

    def _join(self, key: str, items: Sequence[dict[str, Any]]) -> Tensor:
        values: list[Tensor] = [item[key] for item in items]
        if all(value.shape == item["input_ids"].shape for value, item in zip(values, items, strict=True)):
            length = max(value.shape[1] for value in values)
            fill = self.fill.get(key, 0)
            return torch.cat([pad(value, (0, length - value.shape[1]), value=fill) for value in values])  # (B, L)
        return join_padded(values)


def _regions(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Regions by sample, whose ``image`` counts the images of the batch; empty for a batch without regions."""
    if not any(any(item.get("regions", ())) for item in items):
        return {}
    joined: dict[str, Any] = {key: [one for item in items for one in item[key]] for key in _OF_IMAGES}
    regions, first = [], 0
    for item in items:
        regions += [[replace(one, image=first + one.image) for one in own] for own in item["regions"]]
        first += len(item["region_sizes"])
    return {"regions": regions, **joined}
