"""What every stack must get alike from one tiny checkpoint: token ids, labels, logits and generated ids.

``python -m tests.stacks`` on LLaVA's own pins wrote tests/goldens/stacks.json, stacks.safetensors and
stacks_tokenizer.model; tests/hosts/llava/test_stacks.py compares.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.hosts.llava.tokenizer import load_tokenizer
from tests.tiny import TINY_REGIONCLIP, build_llava, build_tokenizer

GOLDENS = Path(__file__).parent / "goldens"
TOKENIZER = GOLDENS / "stacks_tokenizer.model"
PIECES = "a|the|USER|:| |  |   |\n|\t|dog|<|seven|.|,|é|漢|🙂|1|23|▁|'s|#|\n\n|ASSISTANT|     |xxx|_|</s>".split("|")
CONFIG = {
    "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>",
    "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 2048, "padding_side": "right",
}  # fmt: skip


def prompts(count: int = 60) -> list[str]:
    """Random text, half of it with placeholders, much of it with leading, trailing and repeated spaces."""
    rng = random.Random(0)
    plain = ["".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(count)]
    marks = [*PIECES, *["<region>", "<image>", " <region> "] * 3]
    return plain + ["".join(rng.choices(marks, k=rng.randint(1, 12))) for _ in range(count)]


def real_tokenizer_model() -> Path | None:
    """The SentencePiece model of Mistral-7B, in an unpacked PyPI package mistral-common."""
    folder = os.environ.get("PVIT_EXT_MISTRAL_COMMON")
    path = Path(folder or ".", "mistral_common", "data", "tokenizer.model.v1")
    return path if path.is_file() else None


def tokenizer_folder(folder: Path, model: Path, legacy: bool | None, model_type: str = "llama") -> Path:
    """A folder with nothing but tokenizer.model and what LLaVA's checkpoints have beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, folder / "tokenizer.model")
    values = CONFIG if legacy is None else CONFIG | {"legacy": legacy}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def token_ids(folder: Path) -> list[list[int]]:
    """Ids of every prompt."""
    tokenizer = load_tokenizer(str(folder))
    return [tokenizer_region_token(text, tokenizer) for text in prompts()]


def fill(module: torch.nn.Module) -> None:
    """Every parameter and buffer from its own name, so that no library's initialisation matters."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            seed = zlib.crc32(name.replace("vision_model.", "").encode())
            noise = np.random.RandomState(seed).standard_normal(tuple(value.shape)) * 0.15
            value.copy_(torch.from_numpy(noise + (value.ndim == 1 and name.endswith("weight"))))


def checkpoint(folder: Path) -> Path:
    """A tiny LLaVA with RegionCLIP, the same on every stack."""
    from transformers import CLIPVisionModel

    build_llava(folder)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    tower = CLIPVisionModel.from_pretrained(folder / "tower")
    options = RegionConfig("regionclip", encoder_options=TINY_REGIONCLIP, box_embedding=True)
    model = pvit_ext.load_pretrained_model(str(folder), region_config=options, device="cpu")[1]
    for part in (tower, model):
        fill(part)
        part.save_pretrained(folder / "tower" if part is tower else folder)
    return folder


def make_image(width: int, height: int) -> Image.Image:
    """Noise that no library draws."""
    return Image.fromarray(np.random.RandomState(width).randint(0, 255, (height, width, 3), dtype=np.uint8))


def outputs(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Ids, generated ids, logits of the last four positions, and the loss of two prompts with regions."""
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), device="cpu")
    queries = [
        Query(make_image(28, 28), "What is in <region>?", [Region.box(3, 4, 20, 25)]),
        Query(make_image(60, 40), " Compare <region>  with <region>.", [Region.box(0, 0, 30, 20), Region.point(50, 9)]),
    ]
    texts = [build_prompt(query, conversation(model), "stack", model) for query in queries]
    batch = collate(model, tokenizer, processor, queries, texts)
    with torch.no_grad():
        names = {"inputs": "input_ids"}
        labels = batch["inputs"].masked_fill(batch["inputs"] < 0, -100)
        out = model(**{names.get(key, key): value for key, value in batch.items()}, labels=labels)
    model.config.tokenizer_padding_side = "left"
    new = model.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=0)[:, -8:]
    tensors = {"logits": out.logits[:, -4:].contiguous(), "loss": out.loss[None]}
    return {"inputs": batch["inputs"].tolist(), "new": new.tolist()}, tensors


def labels(folder: Path) -> list[list[int]]:
    """Labels of conversations of one to three turns, as training masks them."""
    from llava import conversation as llava_conversation
    from llava.train import train as llava_train

    tokenizer = load_tokenizer(str(folder))
    tokenizer.pad_token = tokenizer.unk_token  # as LLaVA's train()
    rng, found = random.Random(1), []
    before = llava_conversation.default_conversation, llava_train.tokenizer_image_token
    llava_conversation.default_conversation = llava_conversation.conv_templates["v1"]
    llava_train.tokenizer_image_token = tokenizer_region_token
    try:
        for turns in (1, 2, 3) * 4:
            texts = [" ".join(rng.choices(["seven", "<region>", "the dog", "red,"], k=4)) for _ in range(2 * turns)]
            source = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
            source[0]["value"] = "<image>\n" + source[0]["value"]
            found.append(llava_train.preprocess([source], tokenizer, has_image=True)["labels"][0].tolist())
    finally:
        llava_conversation.default_conversation, llava_train.tokenizer_image_token = before
    return found


VARIANTS: dict[str, tuple[bool | None, str]] = {
    "llama": (False, "llama"),
    "legacy": (True, "llama"),
    "unsaid": (None, "llama"),
    "mistral": (False, "mistral"),
}


def main() -> None:
    """Write the reference."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tokenizer(folder)
        shutil.copy(folder / "tokenizer.model", TOKENIZER)
        real = real_tokenizer_model()
        assert real is not None, "name an unpacked mistral-common in PVIT_EXT_MISTRAL_COMMON"
        values: dict[str, Any] = {"ids": {}}
        for model in (TOKENIZER, real):
            for variant, (legacy, kind) in VARIANTS.items():
                tokenizer_only = tokenizer_folder(folder / model.name / variant, model, legacy, kind)
                values["ids"][f"{model.name} {variant}"] = token_ids(tokenizer_only)
        path = checkpoint(folder / "checkpoint")
        found, tensors = outputs(path)
        values |= found
        values["labels"] = labels(tokenizer_folder(folder / "real", real, False))
        (GOLDENS / "stacks.json").write_text(json.dumps(values, separators=(",", ":")) + "\n")
        save_file(tensors, GOLDENS / "stacks.safetensors")


if __name__ == "__main__":
    sys.exit(main())
