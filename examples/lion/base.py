"""The LLaVA that all arms start from: the quickstart's, taught longer about whole images, and about lists of tags."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaTokenizer

from examples.lion.settings import Settings
from examples.lion.tags import list_turn
from examples.quickstart.__main__ import Quickstart
from examples.quickstart.checkpoint import build_base, image_turn
from examples.quickstart.language import collate, encode, fit, new_language_model, text_turn, train_tokenizer
from examples.quickstart.phases import Phases

RATE, BATCH, TURNS = 3e-3, 16, 3


class Base(Quickstart):
    """The quickstart's parts, without its RegionCLIP tower: regions are read off the vision tower."""

    settings: Settings

    def build(self) -> dict[str, Any]:
        """Make what is not there yet; seconds of each part, and the fractions that its tower gets right in training."""
        phases = Phases(self.folder, self.settings.base(), remedy="start over with --fresh")
        phases.run("language model", self.language)
        seen = phases.run("CLIP tower", self.clip)
        phases.run("base LLaVA", self.base)
        return {"seconds": dict(phases.seconds), "digits and colours of the tower": seen}

    def language(self) -> None:
        """Tokenizer and language model."""
        folder, rng = self.folder / "language", random.Random(self.settings.seed)
        turns = [turn(rng) for turn in (text_turn, list_turn) for _ in range(500)]
        turns += [image_turn(scene, rng) for scene, _ in self.scenes[:300]]
        train_tokenizer(folder, turns)
        tokenizer = LlamaTokenizer.from_pretrained(folder)
        torch.manual_seed(0)
        model = new_language_model(tokenizer)
        loss = fit(model, _batches(tokenizer, self.settings.seed), self.settings.language_steps, RATE, "language model")
        tqdm.write(f"language model: loss {loss:.3f}")
        model.save_pretrained(folder)

    def base(self) -> None:
        """LLaVA of these parts."""
        parts = self.folder / "language", self.folder / "clip", self.folder / "base"
        build_base(*parts, self.scenes, self.settings.base_steps, BATCH)


def _batches(tokenizer: Any, seed: int) -> Iterator[dict[str, Tensor]]:
    """Endless batches of conversations about words and lists."""
    rng = random.Random(seed)
    while True:
        asked = [[rng.choice((text_turn, list_turn))(rng) for _ in range(TURNS)] for _ in range(BATCH)]
        yield collate([encode(tokenizer, turns) for turns in asked])
