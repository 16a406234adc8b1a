"""The comparison's language model: the quickstart's with one layer more, pre-trained on scenes in words.

It has to answer about one of several things by their position or mark, which a tiny model does not find by itself:
shown whole conversations, it only guesses one of the things. So it first completes single words ("what is at this
position?" many times over one scene), and keeps some of these while it answers about one digit, two, three to five.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
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
from examples.quickstart.towers import at_patches, attributes_of, image_processor
from examples.quickstart.world import Digit

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
        conversations: rows of a batch that are a conversation about a scene.
        probes: rows of a batch that ask for single words.
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


def train_language_model(folder: Path, scenes: int, steps: int, seed: int) -> None:
    """Train a language model on scenes in words and save it beside its tokenizer.

    Args:
        folder: with a tokenizer that has :func:`~examples.compare.told.symbols`.
        scenes: how many to make for a level.
        steps: optimizer steps.
        seed: of the scenes.
    """
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = new_language_model(tokenizer, LAYERS)
    fit(model, batches(model, tokenizer, scenes, steps, seed), steps, RATE, "language model")
    model.save_pretrained(folder)


def scene_turns(told: Told, digits: Sequence[Digit], rng: random.Random, turns: int) -> list[Turn]:
    """A conversation about digits of a scene, with one question about words among them; the first has the image."""
    chosen = turns_about(told, digits, rng)[: turns - 1]
    chosen.insert(rng.randint(0, len(chosen)), text_turn(rng))
    return [(f"{IMAGE_TOKEN}\n{chosen[0][0]}", chosen[0][1]), *chosen[1:]]


def patches_of(processor: Any, told: Sequence[Told]) -> Tensor:
    """(S, P, 2 + colours) int64, see :func:`~examples.compare.tower.pixel_targets`."""
    return torch.cat([at_patches(pixel_targets(processor, one)[None]) for one in told])


def digits_in(told: Told, patches: Tensor) -> list[Digit]:
    """The digits that lie under one of the patches (P, 2 + colours); small ones can lie between their centres."""
    there = (attributes_of(told.scene)[:, None] == patches[:, :2]).all(2).any(1)  # (N,)
    return [digit for digit, seen in zip(told.scene.digits, there.tolist(), strict=True) if seen]


def batches(model: Any, tokenizer: Any, scenes: int, steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Batches of all levels, as the model takes them, embedded with the model's own words of that moment."""
    rng, done = random.Random(f"words-{seed}"), 0
    maker = RowMaker(tokenizer, model.get_input_embeddings().weight, rng)
    for level in LEVELS:
        known = _with_digits(scenes, level.digits, rng)
        for _ in range(done, done := round(level.until * steps)):
            chosen = [known[rng.randrange(scenes)] for _ in range(level.conversations + level.probes)]
            maker.refresh()
            rows = [maker.conversation(*scene, level.background) for scene in chosen[: level.conversations]]
            yield _pad(rows + [maker.probe(patches, level.background) for _, patches in chosen[level.conversations :]])


def _with_digits(count: int, digits: tuple[int, int], rng: random.Random) -> list[tuple[Told, Tensor]]:
    """Scenes of which at least one digit lies under a patch, with their patches (P, 2 + colours)."""
    processor = image_processor()
    found: list[tuple[Told, Tensor]] = []
    while len(found) < count:
        [told] = tell_scenes(1, digits, rng)
        [patches] = patches_of(processor, [told])
        if (patches[:, 0] >= 0).any():
            found.append((told, patches))
    return found


class RowMaker:
    """Makes the two kinds of rows from scenes in words.

    Args:
        tokenizer: with the words.
        embedding: (V, C) of the words, a parameter that is being trained.
        rng: of the questions.
    """

    def __init__(self, tokenizer: Any, embedding: Tensor, rng: random.Random) -> None:
        self.tokenizer, self.embedding, self.rng = tokenizer, embedding, rng
        self.words = PatchWords(tokenizer)
        self.refresh()

    def refresh(self) -> None:
        """Take the words as they are now: once for each step."""
        self.position, self.mark = self.words.position(self.embedding), self.words.mark(self.embedding)

    def conversation(self, told: Told, patches: Tensor, background: int) -> Row:
        """The scene where the image stands in a conversation; patches (P, 2 + colours)."""
        turns = scene_turns(told, digits_in(told, patches), self.rng, TURNS)
        ids, labels = encode(self.tokenizer, turns)
        shown = self._say(patches, background)  # (K, C)
        at = ids.index(IMAGE_ID)
        before, after = torch.tensor(ids[:at]), torch.tensor(ids[at + 1 :])
        image = torch.full((len(shown),), IGNORE)
        wanted = torch.cat([torch.tensor(labels[:at]), image, torch.tensor(labels[at + 1 :])])
        return torch.cat([self.embedding[before], shown, self.embedding[after]]), wanted

    def probe(self, patches: Tensor, background: int) -> Row:
        """A scene, then positions and marks of its digits in random order, each to be followed by the digit's word."""
        on_digit = patches[:, 0] >= 0
        things = self.words.thing(patches[on_digit])  # (N,)
        patch, mark = patches[on_digit][:, 2:].nonzero(as_tuple=True)
        asked, answers = torch.cat([self.position[on_digit], self.mark[mark]]), torch.cat([things, things[patch]])
        order = torch.randperm(len(answers))[:PROBES]
        shown = self._say(patches, background)  # (K, C)
        shown = shown[torch.randperm(len(shown))]
        end = shown.new_zeros(1, shown.shape[1])  # the model's loss pairs a position with the label behind it
        nothing = torch.full((len(shown) + 1,), IGNORE)
        return torch.cat([shown, asked[order], end]), torch.cat([nothing, answers[order]])

    def _say(self, patches: Tensor, background: int) -> Tensor:
        """The words for all patches with a digit and for some without, in order: (P, 2 + colours) -> (K, C)."""
        on_digit = patches[:, 0] >= 0
        others = (~on_digit).nonzero()[:, 0]
        kept = torch.cat([on_digit.nonzero()[:, 0], others[torch.randperm(len(others))[:background]]]).sort().values
        return self.words.embed(self.embedding, patches[kept], self.position[kept], self.mark)


def _pad(rows: list[Row]) -> dict[str, Tensor]:
    embedded, labels = zip(*rows, strict=True)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in embedded], batch_first=True)
    return {
        "inputs_embeds": pad_sequence(list(embedded), batch_first=True),  # (B, L, C)
        "labels": pad_sequence(list(labels), batch_first=True, padding_value=IGNORE),  # (B, L)
        "attention_mask": mask,
    }
