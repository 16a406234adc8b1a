"""A training step with regions against the same step without, at equal length, through the whole model.

The models are transformers' LLaVA and LLaVA's own, with 336-pixel images and a language model that dominates the time.
Every parameter but those of the vision tower trains. On CUDA the dtype is bfloat16, as recipes train and flash kernels
need. The process's own time (``--clock process``, with
``OMP_NUM_THREADS=1``) tells less of a machine that others load.
Run ``python -m tests.benchmarks.bench_step`` from the repository's root.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import pvit_ext
from pvit_ext.config import RegionConfig
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.prompt import IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX
from pvit_ext.regions.region import Region
from tests.benchmarks.count_operations import ENCODERS
from tests.benchmarks.harness import arguments, compare, write
from tests.hosts.transformers.inputs import make_image
from tests.hosts.transformers.zoo import image_processor, prompt, text_config, tokenizer
from tests.tiny import build_tower

SIZE, PATCH = 336, 14
IMAGE = make_image(640, 480)
BOXES = [Region.box(20, 30, 220, 330), Region.box(60, 30, 260, 330)]
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

Case = tuple[Any, Any, dict[str, Any], torch.Tensor]
"""A model without regions, one with them, its batch, and the ids of the same length for the first."""
QUESTION = "what is in " + "<region> and " * 2 + "?"


def sizes(width: int, layers: int) -> tuple[dict[str, int], dict[str, int]]:
    """Config values of the language model, and of a vision tower of a quarter of its width."""
    tower = {"hidden_size": width // 4, "intermediate_size": width, "num_hidden_layers": 6, "num_attention_heads": 4}
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    heads = max(width // 64, 1)  # 64 channels each, as language models have
    return text | {"num_attention_heads": heads, "num_key_value_heads": heads}, tower


def stock(width: int, layers: int, **own_tower: int) -> tuple[Any, Any]:
    """transformers' LLaVA of this width, whose tower has a quarter of it or sizes of its own, and its processor."""
    text, tower = sizes(width, layers)
    tower |= own_tower
    torch.manual_seed(0)
    words, square = tokenizer(["<image>"]), {"height": SIZE, "width": SIZE}
    images = image_processor("clip", "CLIPImageProcessor", size={"shortest_edge": SIZE}, crop_size=square)
    own = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = transformers.LlavaProcessor(images, words, **own)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower, image_size=SIZE, patch_size=PATCH),
        text_config=transformers.LlamaConfig(**text_config(**text)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def of_transformers(config: RegionConfig, width: int, layers: int) -> Case:
    """transformers' LLaVA on two samples."""
    model, processor = stock(width, layers)
    plain = copy.deepcopy(model)
    attach(model, config, processor=processor)
    asked = {"images": [IMAGE, IMAGE], "text": [prompt(processor, QUESTION)] * 2, "regions": [BOXES, BOXES]}
    batch = dict(processor(**asked, return_tensors="pt"))
    ids, token = batch["input_ids"], model.base_model.region_host.token_id
    for one in (plain, model):
        one.model.vision_tower.requires_grad_(False)
    return plain, model, batch, torch.where(ids == token, processor.tokenizer.unk_token_id, ids)


def of_llava(config: RegionConfig, width: int, layers: int) -> Case:
    """LLaVA's own model on two samples."""
    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

    text, tower = sizes(width, layers)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        build_tower(Path(folder), SIZE, **tower, patch_size=PATCH)
        own = {"mm_vision_tower": folder, "mm_hidden_size": width // 4, "mm_projector_type": "mlp2x_gelu"}
        own |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad"}
        model = LlavaLlamaForCausalLM(LlavaConfig(**text_config(**text), **own, tokenizer_model_max_length=2048))
        model.get_vision_tower().load_model()
        plain = copy.deepcopy(model)
        pvit_ext.attach(model, config)
    each = model.region_module.positions_per_region
    row = [1, 9, IMAGE_TOKEN_INDEX, 10, 11, REGION_TOKEN_INDEX, 12, REGION_TOKEN_INDEX, 12, 13]
    long = [one for given in row for one in ([given] if given != REGION_TOKEN_INDEX else [14] * each)]
    batch = {
        "input_ids": torch.tensor([row, row]),
        "images": torch.randn(2, 3, SIZE, SIZE),
        "image_sizes": [IMAGE.size] * 2,
        "regions": [BOXES, BOXES],
    }
    return plain, model, batch, torch.tensor([long, long])


HOSTS = {"transformers": of_transformers, "llava": of_llava}


def placed(value: Any, device: str, dtype: torch.dtype) -> Any:
    """A part of a batch on a device, floating point values in a dtype."""
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {key: placed(one, device, dtype) for key, one in value.items()}
    return [placed(one, device, dtype) for one in value] if isinstance(value, list) else value


def step(model: Any, batch: dict[str, Any]) -> Callable[[], None]:
    """Forward and backward on a batch."""
    labels = batch["input_ids"].masked_fill(batch["input_ids"] < 0, -100)

    def run() -> None:
        model.zero_grad()
        model(**batch, labels=labels).loss.backward()

    return run


def case(host: str, encoder: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Time both on two samples with two regions each."""
    plain, model, inputs, ids = HOSTS[host](ENCODERS[encoder], given.width, given.layers)
    device = given.device
    dtype = DTYPES[given.dtype or ("bfloat16" if device == "cuda" else "float32")]
    batch = {key: placed(value, device, dtype) for key, value in inputs.items()}
    without = {key: value for key, value in batch.items() if not key.startswith("region")} | {
        "input_ids": ids.to(device)
    }
    for one in (plain, model):
        one.to(device, dtype).train()
    forms = {"without regions": step(plain, without), "with regions": step(model, batch)}
    length = ids.shape[1] + (host == "llava") * ((SIZE // PATCH) ** 2 - 1)  # its images take one id
    size = f"width {given.width}, {given.layers} layers, 2 samples of {length} positions, {len(BOXES)} regions each"
    facts = {"host": host, "dtype": str(dtype)[6:], "time": given.clock}
    return compare(f"{encoder}, {size}", forms, given.rounds, CLOCKS[given.clock], **facts)


def main() -> None:
    """Write ``results/step.csv``."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--width", type=int, default=1024, help="hidden size, default %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="number of layers, default %(default)s")
    parser.add_argument("--host", choices=HOSTS, nargs="+", default=[*HOSTS], help="default both")
    parser.add_argument("--encoder", choices=ENCODERS, nargs="+", default=[*ENCODERS], help="default all")
    parser.add_argument("--dtype", choices=DTYPES, help="default bfloat16 on cuda, float32 on the cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="default %(default)s")
    given = parser.parse_args()
    cases = (case(host, encoder, given) for host in given.host for encoder in given.encoder)
    write("step", (row for rows in cases for row in rows), given.device, given.to)


if __name__ == "__main__":
    main()
