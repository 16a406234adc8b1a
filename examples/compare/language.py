"""The comparison's language model: the quickstart's with one layer more, pre-trained on scenes in words.

It has to answer about one of several things by their place or mark, which a tiny model does not find by itself: shown
whole conversations, it settles for guessing one of the things. So it first completes single words ("what stands at this
place?" many times over one scene), then answers about one digit, two, and three to five.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaTokenizer

from examples.compare.told import Told, tell_scenes, turns_about
from examples.compare.tower import CELLS, pixel_targets
from examples.compare.words import PatchWords
from examples.quickstart.language import (
    IGNORE,
    IMAGE_ID,
    IMAGE_TOKEN,
    Turn,
    encode,
    fit,
    new_language_model,
    text_turn,
)
from examples.quickstart.towers import at_patches, image_processor

LAYERS, RATE = 4, 3e-3
TURNS, PROBES = 4, 16
Row = tuple[Tensor, Tensor]
"""Embedded tokens (L, C), and labels (L,)."""


@dataclass(frozen=True)
class Level:
    """A part of the training.

    Args:
        until: where it ends, as a part of all steps.
        digits: fewest and most on a scene.
        background: patches without a digit that are told of a scene.
        conversations: rows of a batch.
        probes: rows of a batch.
    """

    until: float
    digits: tuple[int, int]
    background: int
    conversations: int = 32
    probes: int = 8


LEVELS = (
    Level(0.1, (3, 5), 8, conversations=0, probes=48),
    Level(0.25, (1, 1), 2),
    Level(0.45, (2, 2), 2),
    Level(0.75, (3, 5), 6),
    Level(1.0, (3, 5), CELLS**2),
)


def train_language_model(folder: Path, scenes: int, steps: int, seed: int) -> float:
    """Train a language model on scenes in words, save it beside its tokenizer, return its last loss.

    Args:
        folder: with a tokenizer that has :func:`~examples.compare.told.symbols`.
        scenes: how many to make for a level.
        steps: optimizer steps.
        seed: of the scenes.
    """
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = new_language_model(tokenizer, LAYERS)
    loss = fit(model, _batches(model, tokenizer, scenes, steps, seed), steps, RATE, "language model")
    model.save_pretrained(folder)
    return loss


def scene_turns(told: Told, rng: random.Random, turns: int) -> list[Turn]:
    """A conversation about a scene, with one question about words among them; the first has the image."""
    chosen = turns_about(told, rng)[: turns - 1]
    chosen.insert(rng.randint(0, len(chosen)), text_turn(rng))
    return [(f"{IMAGE_TOKEN}\n{chosen[0][0]}", chosen[0][1]), *chosen[1:]]


def patches_of(processor: Any, scenes: list[Told]) -> Tensor:
    """(S, P, 2 + colours) int64, see :func:`~examples.compare.tower.pixel_targets`."""
    return torch.cat([at_patches(pixel_targets(processor, told)[None]) for told in scenes])


def _batches(model: Any, tokenizer: Any, scenes: int, steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
    rng, words, done = random.Random(f"words-{seed}"), PatchWords(tokenizer), 0
    for level in LEVELS:
        told = tell_scenes(scenes, level.digits, rng)
        patches = patches_of(image_processor(), told)
        for _ in range(done, done := round(level.until * steps)):
            embedding = model.get_input_embeddings().weight
            chosen = [rng.randrange(scenes) for _ in range(level.conversations + level.probes)]
            shown = words.embed(embedding, patches[chosen])  # (B, P, C)
            rows: list[Row] = []
            for number, (scene, patch) in enumerate(zip(chosen, shown, strict=True)):
                kept = _kept(patches[scene], level.background)
                if number < level.conversations:
                    ids, labels = encode(tokenizer, scene_turns(told[scene], rng, TURNS))
                    rows.append(_conversation(embedding, ids, labels, patch[kept]))
                elif (patches[scene, :, 0] >= 0).any():
                    rows.append(_probe(words, embedding, patches[scene], patch[kept]))
            yield _pad(rows)


def _kept(patches: Tensor, background: int) -> Tensor:
    """Which patches of a scene are told: all with a digit, and some without, in order."""
    seen = patches[:, 0] >= 0
    others = (~seen).nonzero()[:, 0]
    return torch.cat([seen.nonzero()[:, 0], others[torch.randperm(len(others))[:background]]]).sort().values


def _conversation(embedding: Tensor, ids: list[int], labels: list[int], shown: Tensor) -> Row:
    at = ids.index(IMAGE_ID)
    before, after = torch.tensor(ids[:at]), torch.tensor(ids[at + 1 :])
    image = torch.full((len(shown),), IGNORE)
    wanted = torch.cat([torch.tensor(labels[:at]), image, torch.tensor(labels[at + 1 :])])
    return torch.cat([embedding[before], shown, embedding[after]]), wanted


def _probe(words: PatchWords, embedding: Tensor, patches: Tensor, shown: Tensor) -> Row:
    """A scene, then places and marks of its digits in random order, each to be followed by the word for the digit."""
    seen = patches[patches[:, 0] >= 0]  # (N, 2 + colours)
    things = words.thing(seen)
    patch, mark = seen[:, 2:].nonzero(as_tuple=True)
    asked = torch.cat([words.place(embedding)[patches[:, 0] >= 0], words.mark(embedding)[mark]])
    answers = torch.cat([things, things[patch]])
    order = torch.randperm(len(answers))[:PROBES]
    shown = shown[torch.randperm(len(shown))]
    ends = shown.new_zeros(1, shown.shape[1])  # the model's loss pairs a place with the label behind it
    return (
        torch.cat([shown, asked[order], ends]),
        torch.cat([torch.full((len(shown) + 1,), IGNORE), answers[order]]),
    )


def _pad(rows: list[Row]) -> dict[str, Tensor]:
    embedded, labels = zip(*rows, strict=True)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in embedded], batch_first=True)
    return {
        "inputs_embeds": pad_sequence(list(embedded), batch_first=True),  # (B, L, C)
        "labels": pad_sequence(list(labels), batch_first=True, padding_value=IGNORE),  # (B, L)
        "attention_mask": mask,
    }
