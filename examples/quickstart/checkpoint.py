"""The quickstart's base checkpoint: a real, tiny LLaVA of the parts that :mod:`towers` and :mod:`language` trained."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaTokenizer

from examples.quickstart.language import IMAGE_TOKEN, Turn, collate, encode, fit, text_turn
from examples.quickstart.towers import SELECT_LAYER, Scenes, pixels_of
from examples.quickstart.world import DIGITS, Scene

ASK_DIGITS, ASK_COLOURS, ASK_ALL = (
    "Which digits are in the image?",
    "Which colours are in the image?",
    "What is in the image?",
)


def image_turn(scene: Scene, rng: random.Random) -> Turn:
    """A question about the whole image, answered from left to right."""
    found = sorted(scene.digits, key=lambda digit: digit.box[0])
    question = rng.choice((ASK_DIGITS, ASK_COLOURS, ASK_ALL))
    names = {
        ASK_DIGITS: [DIGITS[digit.value] for digit in found],
        ASK_COLOURS: [digit.colour for digit in found],
        ASK_ALL: [f"{digit.colour} {DIGITS[digit.value]}" for digit in found],
    }
    return question, ", ".join(names[question])


def build_base(language: Path, clip: Path, folder: Path, scenes: Scenes, steps: int, batch: int = 32) -> None:
    """Assemble tower, projector and language model, train the last two on image and text questions, save.

    Args:
        language: folder with tokenizer and language model.
        clip: folder of the vision tower.
        folder: where the checkpoint goes; its config names the tower by absolute path, as LLaVA's builder needs it.
        scenes: training scenes.
        steps: optimizer steps.
        batch: conversations a step.
    """
    torch.manual_seed(3)
    model, tokenizer = new_llava(language, clip)
    pixels = pixels_of(model.get_vision_tower().image_processor, [scene.image for scene, _ in scenes])
    loss = fit(model.train(), _batches(tokenizer, scenes, pixels, batch), steps, 1e-3, "base LLaVA")
    tqdm.write(f"base LLaVA: loss {loss:.3f}")
    save_llava(model, language, folder)


def new_llava(language: Path, clip: Path) -> tuple[Any, Any]:
    """LLaVA of a language model and a vision tower, with a fresh projector, and its tokenizer."""
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

    model = LlavaLlamaForCausalLM.from_pretrained(language, config=_llava_config(language, clip))
    model.get_vision_tower().load_model()
    return model, LlamaTokenizer.from_pretrained(language)


def save_llava(model: Any, language: Path, folder: Path) -> None:
    """Write LLaVA and its tokenizer as LLaVA's checkpoints are, without the vision tower."""
    kept = {key: value for key, value in model.state_dict().items() if "vision_tower" not in key}
    model.save_pretrained(folder, state_dict=kept)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(language / name, folder / name)


def _batches(tokenizer: Any, scenes: Scenes, pixels: torch.Tensor, size: int) -> Iterator[dict[str, Any]]:
    """Conversations of one question about the image and four about words, in any order, the image first."""
    rng = random.Random(0)
    while True:
        rows = [rng.randrange(len(scenes)) for _ in range(size)]
        samples = []
        for row in rows:
            turns = [image_turn(scenes[row][0], rng), *(text_turn(rng) for _ in range(4))]
            rng.shuffle(turns)
            turns[0] = (f"{IMAGE_TOKEN}\n{turns[0][0]}", turns[0][1])
            samples.append(encode(tokenizer, turns))
        yield {**collate(samples), "images": pixels[rows]}


def _llava_config(language: Path, clip: Path) -> Any:
    """The language model's config with LLaVA-1.5's additions."""
    from llava.model.language_model.llava_llama import LlavaConfig
    from transformers import CLIPVisionConfig, LlamaConfig

    values = LlamaConfig.from_pretrained(language).to_dict()
    del values["model_type"]
    return LlavaConfig(
        **values,
        mm_vision_tower=str(clip.resolve()),
        mm_hidden_size=CLIPVisionConfig.from_pretrained(clip).hidden_size,
        mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=SELECT_LAYER,
        mm_vision_select_feature="patch",
        mm_patch_merge_type="flat",
        mm_use_im_start_end=False,
        mm_use_im_patch_token=False,
        image_aspect_ratio="pad",
        use_mm_proj=True,
        tune_mm_mlp_adapter=False,
        freeze_mm_mlp_adapter=False,
        tokenizer_model_max_length=2048,
        tokenizer_padding_side="right",
    )
