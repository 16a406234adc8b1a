"""The comparison's base LLaVA: language model and vision tower, joined by a projector that says what the tower sees."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.compare.language import patches_of, scene_turns
from examples.compare.told import Told, tell_scenes
from examples.compare.words import PatchWords
from examples.quickstart.checkpoint import new_llava, save_llava
from examples.quickstart.language import collate, encode, fit
from examples.quickstart.towers import fit_tower, pixels_of

ALIGN_RATE, RATE = 3e-3, 4e-4
COUNT, TURNS = (3, 5), 6


def build_llava(
    language: Path, clip: Path, folder: Path, scenes: int, align_steps: int, steps: int, seed: int, batch: int = 16
) -> list[float]:
    """Align the projector, train projector and language model on scenes, save.

    Args:
        language: folder with tokenizer and language model.
        clip: folder of the vision tower.
        folder: where the checkpoint goes.
        scenes: how many to make.
        align_steps: optimizer steps for the projector alone.
        steps: optimizer steps for both.
        seed: of the scenes.
        batch: scenes a step.

    Returns:
        the fractions of patches on a digit whose digit and colour the aligned projector names.
    """
    torch.manual_seed(3)
    rng = random.Random(f"llava-{seed}")
    model, tokenizer = new_llava(language, clip)
    tower, told = model.get_vision_tower(), tell_scenes(scenes, COUNT, rng)
    pixels = pixels_of(tower.image_processor, [one.scene.image for one in told])  # (S, 3, H, W)
    features = torch.cat([tower(part) for part in pixels.split(64)])  # (S, P, C)
    named = _align(model, PatchWords(tokenizer), features, patches_of(tower.image_processor, told), align_steps)
    fit(model.train(), _conversations(tokenizer, told, pixels, batch, rng), steps, RATE, "base LLaVA")
    save_llava(model, language, folder)
    return named


def _align(model: Any, words: PatchWords, features: Tensor, patches: Tensor, steps: int) -> list[float]:
    """Train the projector to say a patch's words; half of the patches are drawn from those on a digit.

    Args:
        model: LLaVA.
        words: of its tokenizer.
        features: (S, P, C) of the vision tower.
        patches: (S, P, 2 + colours).
        steps: optimizer steps.

    Returns:
        the fractions of digits and colours that are named: the nearest ones to what is said beside position and marks.
    """
    projector, embedding = model.get_model().mm_projector, model.get_input_embeddings().weight.detach()
    said = words.embed(embedding, patches, words.position(embedding), words.mark(embedding)).flatten(0, 1)  # (N, D)
    features, patches = features.flatten(0, 1), patches.flatten(0, 1)  # (N, C), (N, 2 + colours)
    on_digit = (patches[:, 0] >= 0).nonzero()[:, 0]
    things = embedding[words.things].flatten(0, 1)  # (digits * colours, D)

    def step(rows: Tensor) -> tuple[Tensor, Tensor]:
        out, mine = projector(features[rows]), rows[: len(rows) // 2]  # (R, D), those on a digit
        thing = out[: len(mine)] - said[mine] + embedding[words.thing(patches[mine])]
        named = torch.cdist(thing, things).argmin(1)
        named = torch.stack([named // words.things.shape[1], named % words.things.shape[1]], 1)
        return (out - said[rows]).square().sum(1).mean(), (named == patches[mine, :2]).float().mean(0)

    def rows() -> Tensor:
        return torch.cat([on_digit[torch.randint(len(on_digit), (256,))], torch.randint(len(features), (256,))])

    drawn = (rows() for _ in range(steps))
    return fit_tower(list(projector.parameters()), step, drawn, steps, ALIGN_RATE, "projector")


def _conversations(
    tokenizer: Any, told: list[Told], pixels: Tensor, size: int, rng: random.Random
) -> Iterator[dict[str, Any]]:
    while True:
        rows = [rng.randrange(len(told)) for _ in range(size)]
        samples = [encode(tokenizer, scene_turns(told[row], told[row].scene.digits, rng, TURNS)) for row in rows]
        yield {**collate(samples), "images": pixels[rows]}
