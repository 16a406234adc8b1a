"""Where a painted box shows in a tower's hidden states, to compare with where its view maps the box."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.regions.region import Size
from pvit_ext.regions.view import View
from tests.hosts.transformers.zoo import Pair, prompt

Floats = NDArray[Any]
Box = tuple[int, int, int, int]
NEIGHBOUR = Image.new("RGB", (77, 123))


@dataclass
class Shown:
    """What the tower made of one image of a batch.

    Args:
        states: hidden states of its cells, (rows, columns, C).
        view: view of the image.
        patch: side of a cell in pixels.
    """

    states: Tensor
    view: View
    patch: int

    def coverage(self, box: Box) -> Floats:
        """How much of each cell lies under a mapped box, (rows, columns)."""
        mapped = self.view.map_boxes(torch.tensor([box], dtype=torch.float32))[0].double().numpy() / self.patch
        rows, columns = self.states.shape[:2]
        return np.outer(_overlap(mapped[1], mapped[3], rows), _overlap(mapped[0], mapped[2], columns))

    def shows_all_of(self, box: Box) -> bool:
        """Whether the view cuts nothing off a box."""
        mapped = self.view.map_boxes(torch.tensor([box], dtype=torch.float32))[0] / self.patch
        rows, columns = self.states.shape[:2]
        return bool((mapped[:2] >= 0).all() and mapped[2] <= columns and mapped[3] <= rows)


def averaging(pair: Pair) -> Pair:
    """The same model with channel 0 of its patch embedding the mean of a cell's pixels."""
    inner = pair[0].base_model
    tower = family_of(inner.config).tower(inner)
    for module in tower.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels == 3:
            with torch.no_grad():
                module.weight[0] = 1 / module.weight[0].numel()
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for name in ("pre_layrnorm", "ln_pre", "post_conv_layernorm"):
            if hasattr(module, name):
                setattr(module, name, nn.Identity())
    return pair


def look(pair: Pair, image: Image.Image, layer: int, tiled: bool = True, together: bool = False) -> Shown:
    """Run the tower on a batch of an image and a neighbour, in one prompt or two; what it made of the image."""
    (model, processor), inner = pair, pair[0].base_model
    family, images = family_of(model.config), [image, NEIGHBOUR]
    text = prompt(processor, "what")
    texts, nested, counts = [text, text], [[one] for one in images], [1, 1]
    if together:
        texts, nested, counts = [prompt(processor, text)], [images], [2]
    batch = processor(images=nested, text=texts, return_tensors="pt", padding=True)
    views = family.views(processor, batch, [one.size for one in images], counts)
    taken = inspect.signature(inner.get_image_features).parameters
    given = {name: value for name, value in batch.items() if name in taken}
    with torch.no_grad():
        hidden = inner.get_image_features(**given, output_hidden_states=True, return_dict=True).hidden_states
    table = family.cells(inner, batch, hidden, views, tiled)[0]
    base, tiles = views[0]
    patch = family.tower_config(model.config).patch_size
    return Shown(hidden[layer].flatten(0, -2)[table], tiles if tiled and tiles else base, patch)


def boxes(size: Size, count: int, random: np.random.Generator) -> list[Box]:
    """Boxes of a fifth to two fifths of an image's sides."""
    found = []
    for _ in range(count):
        width, height = (max(int(side * random.uniform(0.2, 0.4)), 1) for side in size)
        x, y = (int(random.integers(0, side - part)) for side, part in zip(size, (width, height), strict=True))
        found.append((x, y, x + width, y + height))
    return found


def painted(base: Floats, box: Box) -> Image.Image:
    """An image with a white box."""
    pixels = base.copy()
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


@dataclass
class Found:
    """How far a family's views are off.

    Args:
        coverage: largest error of how much of a cell a box covers.
        centre: largest error of a box's centre, in cells.
        top: fraction of the most changed cells that lie under the box, mean over boxes.
        boxes: how many boxes the view shows at least in part.
    """

    coverage: float
    centre: float
    top: float
    boxes: int

    def is_within(self, coverage: float, centre: float, top: float = 1.0) -> bool:
        """Whether nothing is further off."""
        return self.coverage < coverage and self.centre < centre and self.top >= top


def measure(pair: Pair, sizes: Sequence[Size], per_size: int, **how: bool) -> Found:
    """Paint boxes on images: the last layer but one tells what changes most; the first, averaging, by how much.

    Args:
        pair: a model and its processor; its patch embedding is changed on the way.
        sizes: of the images.
        per_size: boxes on each.
        how: ``tiled`` and ``together`` of :func:`look`.
    """
    random, tops, differences, centres = np.random.default_rng(0), list[float](), list[float](), [0.0]
    for size in sizes:
        pixels = random.integers(60, 200, (*size[::-1], 3), dtype=np.uint8)
        for wanted, change, _ in _changes(pair, pixels, per_size, -2, random, how):
            size_of = np.linalg.norm(change, axis=-1).ravel()
            most = size_of.argsort()[::-1][: max(int((wanted > 0.5).sum()), 1)]
            tops.append(float((wanted.ravel()[most] > 0).mean()))
    unit = (1 / np.array(pair[1].image_processor.image_std)).mean()
    averaging(pair)
    for size in sizes:
        pixels = np.zeros((*size[::-1], 3), dtype=np.uint8)
        for wanted, change, shows_all in _changes(pair, pixels, per_size, 0, random, how):
            got = change[..., 0] / unit
            differences.append(float(np.abs(got - wanted).max()))
            if shows_all:
                centres.append(float(np.abs(_centre(got) - _centre(wanted)).max()))
    return Found(max(differences), max(centres), float(np.mean(tops)), len(differences))


def _changes(
    pair: Pair, pixels: Floats, per_size: int, layer: int, random: np.random.Generator, how: dict[str, bool]
) -> Iterator[tuple[Floats, Floats, bool]]:
    """Per box: how much of each cell it covers, the change (rows, columns, C) it makes, whether the view shows all."""
    before = look(pair, Image.fromarray(pixels), layer, **how)
    for box in boxes((pixels.shape[1], pixels.shape[0]), per_size, random):
        if (wanted := before.coverage(box)).sum() >= 0.5:  # else the view crops it away
            change = look(pair, painted(pixels, box), layer, **how).states - before.states
            yield wanted, change.double().numpy(), before.shows_all_of(box)


def _overlap(low: float, high: float, count: int) -> Floats:
    cell = np.arange(count)
    return np.asarray((np.minimum(high, cell + 1) - np.maximum(low, cell)).clip(0, 1))


def _centre(weights: Floats) -> Floats:
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(weights * at).sum() / weights.sum() for at in (columns, rows)])
