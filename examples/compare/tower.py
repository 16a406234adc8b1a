"""The comparison's vision tower: the quickstart's, trained further to keep what its readers have to find in it.

A real CLIP tower has seen millions of images: it knows where a patch lies, and what a frame or a dot on it is. The
quickstart's was taught neither. It loses positions in its last layers, and a mark is noise to it, so nothing that reads
it could find a position by coordinates, or a region by its mark, however long it is trained.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModel

from examples.compare.told import Told, tell_scenes
from examples.quickstart.towers import (
    CLIP_SIZE,
    PATCH,
    SELECT_LAYER,
    AttributeHead,
    at_patches,
    attribute_targets,
    fit_tower,
    pixels_of,
    pixels_within,
)
from pvit_ext.encoders.overlay import COLORS
from pvit_ext.regions.view import tower_view

CROWD = (6, 14)
"""Digits that are tried on a scene: about three times as many as elsewhere, for as much more to learn from."""
CELLS = CLIP_SIZE // PATCH


def train_tower(folder: Path, start: Path, scenes: int, steps: int, seed: int, batch: int = 32) -> list[float]:
    """Train a tower further, save it with its processor, return its fractions of right digits and colours.

    Scenes are crowded, marked, and wrapped around by random distances, so that no patch is seen twice.

    Args:
        folder: where it goes.
        start: the quickstart's tower.
        scenes: how many to make.
        steps: optimizer steps.
        seed: of the scenes.
        batch: scenes a step.
    """
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(0)
    processor, tower = CLIPImageProcessor.from_pretrained(start), CLIPVisionModel.from_pretrained(start)
    width = tower.config.hidden_size
    attributes, patch = AttributeHead(width), PatchHead(width)
    crowd = tell_scenes(scenes, CROWD, random.Random(f"crowd-{seed}"), marked=1.0)
    pixels = pixels_of(processor, [told.scene.image for told in crowd])  # (S, 3, CLIP_SIZE, CLIP_SIZE)
    targets = torch.empty(scenes, 2 + len(COLORS), CLIP_SIZE, CLIP_SIZE, dtype=torch.int8)
    for target, told in zip(targets, crowd, strict=True):
        target.copy_(pixel_targets(processor, told))

    def step(rows: Tensor) -> tuple[Tensor, Tensor]:
        shift = torch.randint(CLIP_SIZE, (2,), generator=generator).tolist()
        images, wanted = (part[rows].roll(shift, (2, 3)) for part in (pixels, targets))
        wanted = at_patches(wanted)  # (B, P, 2 + colours)
        hidden = tower(images, output_hidden_states=True).hidden_states[SELECT_LAYER][:, 1:]  # (B, P, C)
        seen = wanted[..., 0] >= 0
        loss, right = attributes.loss(hidden[seen], wanted[seen][:, :2])
        return loss + patch.loss(hidden, wanted[..., 2:], seen), right

    batches = (torch.randint(scenes, (batch,), generator=generator) for _ in range(steps))
    parameters = [*tower.parameters(), *attributes.parameters(), *patch.parameters()]
    right = fit_tower(parameters, step, batches, steps, 1e-3, "CLIP tower")
    tower.save_pretrained(folder)
    processor.save_pretrained(folder)
    return right


class PatchHead(nn.Module):
    """Reads row, column and mark off patches; thrown away afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position, self.mark = nn.Linear(width, 2 * CELLS), nn.Linear(width, len(COLORS) + 1)

    def loss(self, features: Tensor, marks: Tensor, seen: Tensor) -> Tensor:
        """Mean loss.

        Args:
            features: (B, P, C), patches row by row.
            marks: (B, P, colours) int64, 1 for the marks of what lies under the patch.
            seen: (B, P) bool, patches on a digit, whose marks are asked.
        """
        rows, columns = self.position(features).transpose(1, 2).split(CELLS, 1)  # (B, CELLS, P) each
        at = torch.arange(CELLS**2).expand(len(features), -1)  # (B, P)
        position = F.cross_entropy(rows, at // CELLS) + F.cross_entropy(columns, at % CELLS)
        there = marks[seen].float()  # (N, colours)
        there = torch.cat([there, (there.sum(1, keepdim=True) == 0).float()], 1)  # (N, colours + 1)
        return 0.5 * position + F.cross_entropy(self.mark(features[seen]), there / there.sum(1, keepdim=True))


def pixel_targets(processor: Any, told: Told) -> Tensor:
    """What lies where under ``pad``: digit, colour, and 0 or 1 for each colour of a mark.

    Returns:
        (2 + colours, CLIP_SIZE, CLIP_SIZE) int8; digit and colour are -100 on the background.
    """
    marks = torch.zeros(len(COLORS), CLIP_SIZE, CLIP_SIZE, dtype=torch.int8)
    if told.marked:
        shown = tower_view(processor, "pad", told.scene.image.size).map_boxes(torch.tensor(told.marked))
        for mark, (rows, columns) in zip(marks, pixels_within(shown), strict=False):
            mark[rows, columns] = 1
    return torch.cat([attribute_targets(processor, told.scene), marks])
