"""A training step with regions against the same step without, at equal length, through the whole model.

The model is transformers' LLaVA with 336-pixel images and a language model that dominates the time. Every parameter but
those of the vision tower trains. Run ``python -m tests.benchmarks.bench_step`` from the repository's root.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers

from pvit_ext.config import RegionConfig
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.regions.region import Region
from tests.benchmarks.harness import arguments, compare, write
from tests.hosts.transformers.inputs import picture
from tests.hosts.transformers.zoo import image_processor, prompt, text_config, tokenizer

SIZE, PATCH = 336, 14
ENCODERS = ("osprey", "ferret", "gpt4roi", "cross_attention", "replay")


def stock(width: int, layers: int) -> tuple[Any, Any]:
    """A LLaVA of this width, whose tower has a quarter of it, and its processor."""
    torch.manual_seed(0)
    words, square = tokenizer(["<image>"]), {"height": SIZE, "width": SIZE}
    images = image_processor("clip", "CLIPImageProcessor", size={"shortest_edge": SIZE}, crop_size=square)
    own = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(images, words, **own)
    tower = {"hidden_size": width // 4, "intermediate_size": width, "num_hidden_layers": 6, "num_attention_heads": 4}
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower, image_size=SIZE, patch_size=PATCH),
        text_config=transformers.LlamaConfig(**text_config(**text, num_attention_heads=16, num_key_value_heads=16)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def step(model: Any, batch: dict[str, Any]) -> Callable[[], None]:
    """Forward and backward on a batch."""

    def run() -> None:
        model.zero_grad()
        model(**batch, labels=batch["input_ids"]).loss.backward()

    return run


def case(encoder: str, width: int, layers: int, regions: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Time both on two samples with so many regions each."""
    model, processor = stock(width, layers)
    plain = copy.deepcopy(model)
    attach(model, RegionConfig(encoder), processor=processor)
    image = picture(640, 480)
    boxes = [Region.box(20 + 40 * number, 30, 220 + 40 * number, 330) for number in range(regions)]
    given = dict(
        processor(
            images=[image, image],
            text=[prompt(processor, "what is in " + "<region> and " * regions + "?")] * 2,
            regions=[boxes, boxes],
            return_tensors="pt",
        )
    )
    tensors = {key: value.to(device) for key, value in given.items() if isinstance(value, torch.Tensor)}
    token = model.base_model.region_host.token_id
    ids = torch.where(tensors["input_ids"] == token, processor.tokenizer.unk_token_id, tensors["input_ids"])
    for one in (plain, model):
        one.to(device).train()
        one.model.vision_tower.requires_grad_(False)
    forms = {
        "without regions": step(plain, tensors | {"input_ids": ids}),
        "with regions": step(model, given | tensors),
    }
    name = f"{encoder}, width {width}, {layers} layers, 2 samples of {ids.shape[1]} positions, {regions} regions each"
    return compare(name, forms, rounds, host="transformers", dtype="float32")


def main() -> None:
    """Write ``results/step.csv``."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--width", type=int, default=1024, help="of the language model, default %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="of the language model, default %(default)s")
    given = parser.parse_args()
    cases = (case(name, given.width, given.layers, 2, given.rounds, given.device) for name in ENCODERS)
    write("step", (row for rows in cases for row in rows), given.device, given.to)


if __name__ == "__main__":
    main()
