"""Regions in ms-swift: an external plug-in, which gives ``swift sft`` a model type and a template.

    pip install ms-swift
    pvit-ext swap llava-hf/llava-1.5-7b-hf --encoder osprey --out with-regions
    swift sft --external_plugins examples/ms_swift_plugin.py --model with-regions --model_type pvit_ext \
        --template pvit_ext --dataset data.jsonl --tuner_type full --remove_unused_columns false

``swift`` needs ``PYTHONPATH=.`` where this repository is not installed. The rows of ``data.jsonl`` are ms-swift's own,
with ``<region>`` where a region is spoken of, and their boxes in pixels of the upright image, in the same order:

    {"messages": [{"role": "user", "content": "<image>What is <region>?"}, {"role": "assistant", "content": "a dog"}],
     "images": ["photo.png"], "objects": {"bbox": [[10, 20, 200, 300]]}}

Ids, labels and pixels are those of ``python -m pvit_ext.train --host transformers``; the rest is ms-swift's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.model import Model, ModelGroup, ModelLoader, ModelMeta, register_model
from swift.template import Template, TemplateMeta, register_template

from pvit_ext import Region
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import Record
from pvit_ext.hosts.transformers.dataset import RegionCollator, RegionDataset
from pvit_ext.hosts.transformers.images_only import load_processor
from pvit_ext.hosts.transformers.loading import model_class
from pvit_ext.hosts.transformers.processor import with_regions_of
from pvit_ext.training.arguments import DataFlags

NAME = "pvit_ext"
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
_NO_LIMIT = 2**31


class RegionLoader(ModelLoader):
    """A checkpoint with regions, in its region class, and its processor."""

    def get_processor(self, model_dir: str, config: Any) -> Any:
        """The region processor."""
        return with_regions_of(load_processor(model_dir), model_dir)

    def get_model(self, model_dir: str, config: Any, *args: Any, **kwargs: Any) -> Any:
        """The model with its region modules."""
        self.auto_model_cls = model_class(config)
        return super().get_model(model_dir, config, *args, **kwargs)


class RegionTemplate(Template):
    """Rows by the processor's own chat template, with regions."""

    def _preprocess_inputs(self, inputs: Any) -> None:
        """Nothing: images are read with their regions."""

    def _encode(self, inputs: Any) -> dict[str, Any]:
        boxes = inputs.objects.get("bbox") or []
        images = inputs.objects.get("image_id") or [0] * len(boxes)
        turns = [{"from": _SPEAKERS[turn["role"]], "value": turn["content"]} for turn in inputs.messages]
        if inputs.system:
            turns.insert(0, {"from": "system", "value": inputs.system})
        paths = [one if isinstance(one, str) else one["path"] for one in inputs.images]
        data = {"conversations": turns, **({"image": paths} if paths else {})}
        regions = tuple(Region.box(*box, image=image) for box, image in zip(boxes, images, strict=True))
        record = Record(data, regions, f"the row of {paths or turns[0]['value']}", "")
        records: Any = [record]
        limit = self.max_length or _NO_LIMIT
        item = RegionDataset(records, BadRecords(0), self.processor, DataFlags(), limit, 0)[0]
        return {"input_ids": item["input_ids"][0].tolist(), "labels": item["labels"][0].tolist(), "item": item}

    def _data_collator(self, batch: Sequence[dict[str, Any]], *, padding_to: int | None = None) -> dict[str, Any]:
        return RegionCollator(self.tokenizer.pad_token_id)([row["item"] for row in batch])


register_model(ModelMeta(NAME, [ModelGroup([Model()])], RegionLoader, template=NAME, is_multimodal=True))
register_template(TemplateMeta(NAME, prefix=[], prompt=["{{QUERY}}"], chat_sep=[], template_cls=RegionTemplate))
