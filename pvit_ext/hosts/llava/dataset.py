"""Training data: LLaVA's dataset and collator, plus regions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from llava import conversation
from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.train import train as llava_train
from PIL import Image

from pvit_ext.adapters.lion.router import QUESTIONS
from pvit_ext.adapters.lion.tasks import TASKS
from pvit_ext.config import RECORD_KEY
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.cache.source import BLANK
from pvit_ext.data.cache.vision import number_of
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.data.records import Record, RecordError, Records, load_records
from pvit_ext.data.schema import images_of
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.data.tags.tags import HINT_STYLE
from pvit_ext.hosts.llava.image_layout import ImageLayout
from pvit_ext.hosts.llava.region_token import HintTokenizer
from pvit_ext.hosts.llava.template_check import check_template
from pvit_ext.hosts.llava.tokenizer import with_original_ids
from pvit_ext.hosts.llava.vision_pass import PIXELS, tower_pixels
from pvit_ext.hosts.stored_vision import STORED_IMAGES
from pvit_ext.prompt import HINT_PLACEHOLDER, HINT_TOKEN_INDEX, IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX
from pvit_ext.regions.image import reading
from pvit_ext.regions.jitter import jitter_box
from pvit_ext.regions.region import ResolvedRegion, Size
from pvit_ext.tokens.processor import RegionProcessor


def read_records(data_path: str, data_args: Any) -> tuple[Records, BadRecords]:
    """The records of a data file, and a list of the bad ones, which may be up to ``--max_bad_records``."""
    bad = BadRecords(data_args.max_bad_records)
    return load_records(data_path, data_args.image_folder, bad), bad


class RegionDataset(RecordDataset, llava_train.LazySupervisedDataset):
    """LLaVA's dataset over records with regions; equal to LLaVA's, item by item, where there are none.

    An item has ``input_ids``, ``labels``, ``image`` as LLaVA's, and ``image_size``, ``regions``, ``region_extra``.

    Images are upright (EXIF applied), and processed by LLaVA's ``process_images``, so ``anyres`` works too.

    Attributes:
        region_processor: set by the trainer; it runs in the data workers.
        layout: set by the trainer; how the vision tower sees an image, and the positions that it takes in the prompt.
    """

    region_processor: RegionProcessor = RegionProcessor()
    layout: ImageLayout

    def __init__(self, data_path: str, tokenizer: Any, data_args: Any) -> None:
        read: tuple[Records, BadRecords] = getattr(data_args, "read", None) or read_records(data_path, data_args)
        RecordDataset.__init__(self, *read)
        self.tokenizer = tokenizer
        self.data_args = data_args

    @property
    def positions_per_region(self) -> int:
        """S, positions of the prompt that one region takes."""
        return self.region_processor.positions_per_region

    @property
    def positions_behind_image(self) -> int:
        """Rows that a vision aggregator appends."""
        return self.layout.behind

    def use_tags(self, noise: TagNoise) -> str | None:
        """Like the base class's; refuses LLaVA's plain template, which drops the question and the tags before it.

        Raises:
            ValueError: for that template too.
        """
        plain = conversation.default_conversation.sep_style == conversation.SeparatorStyle.PLAIN
        if plain and self.region_processor.tag_style is not None:
            raise ValueError(
                "--version plain drops the question, and the tags that stand before it: the model reads tags, use "
                "another template"
            )
        return super().use_tags(noise)

    def _item(self, record: Record, draw: np.random.Generator) -> dict[str, Any]:
        if "image" not in record.data:
            blank = tower_pixels(None, self.data_args)
            height, width = blank.shape[1:]
            shown = {"image": blank, "image_size": [(width, height)], "regions": [], "region_extra": [None]}
            if self.stored_vision is not None:
                shown[STORED_IMAGES] = [self.stored_vision.cache.number(BLANK)]
            turns = _with_texts(record, self.tagged(record, draw))
            return self._encoded(record, turns, 0, []) | shown | self._task(record, False)
        images = self.images(record)
        sizes = [image.size for image in images]
        regions, asked = self._regions(record, sizes, draw), record.data.get(RECORD_KEY)
        prompt = self.region_processor.prompt(self.tagged(record, draw), regions, sizes, record.location, asked)
        turns = _with_texts(record, prompt.texts)
        item = self._encoded(record, turns, len(prompt.regions), [self.layout.positions(size) for size in sizes])
        self.region_processor.check(prompt.regions, [self.layout.view(size) for size in sizes], sizes)
        sample = self.region_processor.show(prompt, images, images_of(record.data))
        with reading(record.location):
            pixels = [self._pixels(image) for image in sample.images]
        image = pixels if isinstance(record.data["image"], list) else pixels[0]
        if self.stored_vision is not None:
            item[STORED_IMAGES] = [number_of(one) for one in images]
        item |= {"image": image, "image_size": sizes, "regions": sample.regions, "region_extra": sample.extra}
        return item | self._task(record, bool(prompt.given))

    def _encoded(
        self, record: Record, turns: list[dict[str, str]], regions: int, image_positions: list[int]
    ) -> dict[str, Any]:
        """``input_ids`` and ``labels`` of a conversation that keeps this many ``<region>``."""
        end, has_image = self.tokenizer.eos_token, "image" in record.data
        if end and any(end in turn["value"] for turn in turns):
            raise RecordError(f"{record.location}: its text holds {end}, with which LLaVA ends an answer; take it out")
        conversations = [copy.deepcopy(turns)]
        if len(image_positions) > 1:
            conversations = [self._with_images(turns)]
        elif has_image:
            conversations = llava_train.preprocess_multimodal(conversations, self.data_args)
        try:
            tokenizer, placed = self.tokenizer, has_image
            if self.region_processor.tag_style == HINT_STYLE:
                tokenizer = HintTokenizer(tokenizer)
                placed |= any(HINT_PLACEHOLDER in turn["value"] for turn in turns)
            encoded = llava_train.preprocess(conversations, tokenizer, has_image=placed)
        except AssertionError as error:
            wanted = "--version plain takes one question with <image> and one answer"
            raise RecordError(f"{record.location}: LLaVA's template refuses the conversation; {wanted}") from error
        item = {"input_ids": encoded["input_ids"][0], "labels": encoded["labels"][0]}
        self._check(item, record.location, regions, image_positions)
        return item

    def _with_images(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        """Turns with several images, which LLaVA's ``preprocess_multimodal`` would make one of: they stay in place."""
        if not self.data_args.mm_use_im_start_end:
            return copy.deepcopy(turns)
        marked = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}"
        return [{**turn, "value": turn["value"].replace(DEFAULT_IMAGE_TOKEN, marked)} for turn in turns]

    def _regions(self, record: Record, sizes: list[Size], draw: np.random.Generator) -> list[ResolvedRegion]:
        """The record's regions, moved a little."""
        most = self.data_args.region_jitter
        return [jitter_box(region, most, draw) for region in record.resolve(sizes)]

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        if self.stored_vision is not None:
            pixels: torch.Tensor = self.stored_vision.prepared(image)[PIXELS]
            return pixels
        return tower_pixels(image, self.data_args)

    def _check(self, item: dict[str, Any], name: str, expected: int, image_positions: list[int]) -> None:
        """Refuse a sample whose answer is masked or cut away, or whose region is cut off."""
        ids, limit = item["input_ids"], self.tokenizer.model_max_length
        answer = (item["labels"] != IGNORE_INDEX).nonzero().flatten()
        if len(answer) == 0:
            problem = "LLaVA masks an answer whose tokens it cannot place (see its 'tokenization mismatch')"
            raise RecordError(f"{name}: no answer token is left to learn from: {problem}")
        regions = (ids == REGION_TOKEN_INDEX).nonzero().flatten()
        if len(regions) != expected:
            problem = f"{expected} regions, but its prompt keeps {len(regions)} <region>"
            raise RecordError(f"{name}: {problem}; --version plain drops the question, use another template")
        if (images := int((ids == IMAGE_TOKEN_INDEX).sum())) != len(image_positions):
            problem = f"{len(image_positions)} images, but its prompt keeps {images} <image>"
            raise RecordError(f"{name}: {problem}; --version plain takes one image, use another template")
        hints = (ids == HINT_TOKEN_INDEX).nonzero().flatten()
        for what, found in (("first answer", answer[:1]), ("last region", regions[-1:]), ("last hint", hints[-1:])):
            for index in found.tolist():
                end = self.region_processor.count_positions(ids[: index + 1], image_positions)
                if end > limit:
                    problem = f"its {what} ends at position {end}, --model_max_length is {limit}; raise it"
                    raise RecordError(f"{name}: {problem}")


def _with_texts(record: Record, texts: list[str]) -> list[dict[str, str]]:
    """The turns of a record with other texts."""
    return [{**turn, "value": text} for turn, text in zip(record.data["conversations"], texts, strict=True)]


class RegionCollator(llava_train.DataCollatorForSupervisedDataset):
    """LLaVA's collator; images, their sizes and the encoder's extra inputs are one list over all samples.

    Regions stay one list a sample; a region's ``image`` counts the images of its sample.
    """

    def __call__(self, instances: Any) -> dict[str, Any]:
        """Batch of :class:`RegionDataset` items."""
        texts = [{key: item[key] for key in ("input_ids", "labels")} for item in instances]
        batch: dict[str, Any] = super().__call__(texts)
        images = [
            image
            for item in instances
            for image in (item["image"] if isinstance(item["image"], list) else [item["image"]])
        ]
        batch["images"] = torch.stack(images) if len({image.shape for image in images}) == 1 else images
        batch["image_sizes"] = [size for item in instances for size in item["image_size"]]
        batch["regions"] = [item["regions"] for item in instances]
        batch["region_extra"] = [extra for item in instances for extra in item["region_extra"]]
        if STORED_IMAGES in instances[0]:
            batch[STORED_IMAGES] = [number for item in instances for number in item[STORED_IMAGES]]
        if TASKS in instances[0]:
            batch[TASKS] = torch.cat([item[TASKS] for item in instances])  # (B,)
        if QUESTIONS in instances[0]:
            own = [item[QUESTIONS][0] for item in instances]
            batch[QUESTIONS] = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)  # (B, Q)
        return batch


def make_supervised_data_module(tokenizer: Any, data_args: Any) -> dict[str, Any]:
    """What LLaVA's function of this name returns, with regions, and LLaVA's original token ids."""
    tokenizer = with_original_ids(tokenizer)
    dataset = RegionDataset(data_args.data_path, tokenizer, data_args)
    check_template(tokenizer, (record.data for record in dataset.records), llava_train.preprocess)
    return {
        "train_dataset": dataset,
        "eval_dataset": None,
        "data_collator": RegionCollator(tokenizer=tokenizer),
    }
