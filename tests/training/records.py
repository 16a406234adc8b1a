"""A record of a data file, and LLaVA's dataset over such a file without a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.image_layout import ImageLayout

compat.prepare_training()

from pvit_ext.hosts.llava.dataset import RegionDataset  # noqa: E402


def record(
    number: int, text: str = "What is in <region>?", regions: Any = ((5, 5, 40, 40),), image: bool = True
) -> dict:
    value = ("<image>\n" if image else "") + text
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "seven red"}]
    sample: dict[str, Any] = {"id": str(number), "conversations": turns}
    if image:
        sample["image"] = f"{number}.png"
    if regions:
        sample["regions"] = [list(region) for region in regions]
    return sample


def make_dataset(llava_checkpoint: Path, path: Path, kind: Any = RegionDataset, **changed: Any) -> Any:
    from transformers import AutoTokenizer, CLIPImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(
        llava_checkpoint, use_fast=False, model_max_length=512, padding_side="right"
    )
    tokenizer.pad_token = tokenizer.unk_token
    arguments = SimpleNamespace(
        image_folder=str(path.parent), image_aspect_ratio="pad", is_multimodal=True, mm_use_im_start_end=False,
        region_jitter=0.0, max_bad_records=0,
        image_processor=CLIPImageProcessor.from_pretrained(llava_checkpoint / "tower"),
    )  # fmt: skip
    for key, value in changed.items():
        setattr(arguments, key, value)
    dataset = kind(data_path=str(path), tokenizer=tokenizer, data_args=arguments)
    dataset.layout = ImageLayout(arguments.image_processor, 28, 4, arguments.image_aspect_ratio, None, "flat")
    return dataset
