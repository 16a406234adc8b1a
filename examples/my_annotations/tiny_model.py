"""``python -m examples.my_annotations.tiny_model``: replaces the downloads of the walk-through, made in two minutes.

A tiny LLaVA (LLaMA, CLIP tower, projector) and a tiny RegionCLIP tower, of the real classes and in the real files'
layout. What large models bring along they learn from the training file itself: the language model answers the file's
questions about words where the regions stand, and the tower tells the file's answers apart by their boxes.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaTokenizer

from examples.quickstart.checkpoint import new_llava, save_llava
from examples.quickstart.language import IMAGE_TOKEN, Turn, collate, encode, fit, mention, tiny_llama, train_tokenizer
from examples.quickstart.towers import (
    CLIP_SIZE,
    PATCH,
    fit_tower,
    image_processor,
    original_layout,
    pixels_of,
    region_tower_to_train,
)
from pvit_ext.data.records import Record, load_records
from pvit_ext.encoders.regionclip.encoder import RegionCLIP
from pvit_ext.files import atomic_write
from pvit_ext.prompt import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER
from pvit_ext.regions.image import load_image
from pvit_ext.regions.view import View

REGION_OPTIONS: dict[str, Any] = {
    "layers": [1, 1, 1, 1],
    "width": 16,
    "heads": 8,
    "output_dim": 64,
    "pool": 4,
    "shortest_edge": 416,
    "longest_edge": 640,
}
"""The tower's; ``run.sh`` gives the same to stage 1."""
LANGUAGE_STEPS, TOWER_STEPS, IMAGES = 150, 500, 64
WINDOW = 112
_TURNS = 6


def main(argv: Sequence[str] | None = None) -> None:
    """Make the checkpoints: ``llava``, with its tower in ``clip``, and ``regionclip.pth``."""
    parser = argparse.ArgumentParser(prog="python -m examples.my_annotations.tiny_model", description=__doc__)
    parser.add_argument("records", type=Path, help="training file: short answers about boxes")
    parser.add_argument("--image-folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of all steps; below 1 only tries the machinery"
    )
    args = parser.parse_args(argv)
    records = list(load_records(args.records, args.image_folder))
    make_llava(args.out, records, max(round(LANGUAGE_STEPS * args.scale), 2))
    right = train_region_tower(args.out / "regionclip.pth", records, max(round(TOWER_STEPS * args.scale), 2))
    print(f"{args.out}: llava, clip and regionclip.pth, which names {right:.0%} of its training boxes")


def turns_of(record: Record) -> list[Turn]:
    """Questions and answers of a record, without the placeholder of its image."""
    texts = [turn["value"].replace(IMAGE_PLACEHOLDER, "").strip() for turn in record.data["conversations"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def make_llava(out: Path, records: Sequence[Record], steps: int, batch: int = 16) -> None:
    """A tiny LLaVA that reads an answer off the position where a region will stand; beside it its vision tower.

    Args:
        out: folder for ``language``, ``clip`` and ``llava``.
        records: whose questions it learns.
        steps: of the optimizer.
        batch: conversations a step.
    """
    torch.manual_seed(0)
    turns = [turn for record in records for turn in turns_of(record)]
    rng, names = random.Random(0), sorted({answer for _, answer in turns})
    train_tokenizer(out / "language", [_said(turn, rng) for turn in turns], names)
    tiny_llama(LlamaTokenizer.from_pretrained(out / "language")).save_pretrained(out / "language")
    clip = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=CLIP_SIZE,
        patch_size=PATCH,
    )  # fmt: skip
    CLIPVisionModel(clip).save_pretrained(out / "clip")
    image_processor().save_pretrained(out / "clip")
    model, tokenizer = new_llava(out / "language", out / "clip")
    loss = fit(model.train(), _conversations(tokenizer, model, records, turns, batch), steps, 3e-3, "tiny LLaVA")
    tqdm.write(f"tiny LLaVA: {model.num_parameters() / 1e6:.1f} M parameters, loss {loss:.3f}")
    save_llava(model, out / "language", out / "llava")


def _said(turn: Turn, rng: random.Random) -> Turn:
    """The question with its answer in words where its region stands."""
    question, answer = turn
    return question.replace(REGION_PLACEHOLDER, mention(answer, rng)), answer


def _conversations(
    tokenizer: Any, model: Any, records: Sequence[Record], turns: Sequence[Turn], size: int
) -> Iterator[dict[str, Any]]:
    """Batches of conversations about words, each behind an image that has nothing to say."""
    rng = random.Random(1)
    shown = rng.sample(list(records), min(IMAGES, len(records)))
    images = [load_image(record.image_files[0]) for record in shown]
    pixels = pixels_of(model.get_vision_tower().image_processor, images)
    while True:
        samples = []
        for _ in range(size):
            (question, answer), *more = [_said(rng.choice(turns), rng) for _ in range(_TURNS)]
            samples.append(encode(tokenizer, [(f"{IMAGE_TOKEN}\n{question}", answer), *more]))
        yield {**collate(samples), "images": pixels[[rng.randrange(len(images)) for _ in range(size)]]}


def train_region_tower(path: Path, records: Sequence[Record], steps: int, batch: int = 32) -> float:
    """Train a tiny RegionCLIP tower to tell answers apart by their boxes; return the fraction right at the end.

    It is shown windows around boxes, each answer equally often.

    Args:
        path: of the checkpoint, in the layout of RegionCLIP's.
        records: of one region a question.
        steps: of the optimizer.
        batch: regions a step.
    """
    encoder = region_tower_to_train(REGION_OPTIONS)
    samples = _regions_by_answer(encoder, records)
    head, rng = nn.Linear(encoder.feature_dim, len(samples), bias=False), random.Random(2)

    def step(targets: list[int]) -> tuple[Tensor, Tensor]:
        windows, boxes = zip(*(_window(*rng.choice(samples[target]), rng) for target in targets), strict=True)
        pixels, target = encoder.normalize(torch.stack(windows)), torch.tensor(targets)
        features = encoder.encode(pixels, torch.stack(boxes), torch.arange(len(targets)))  # (M, C)
        cosine = F.linear(F.normalize(features, dim=1), F.normalize(head.weight, dim=1))  # (M, answers)
        long = (features.norm(dim=1) - 1).square().mean()  # near 1, where a fresh projector meets word embeddings
        loss = F.cross_entropy(cosine * 20, target) + 0.1 * long
        return loss, (cosine.argmax(1) == target).float().mean()[None]

    batches = ([rng.randrange(len(samples)) for _ in range(batch)] for _ in range(steps))
    (right,) = fit_tower([*encoder.parameters(), *head.parameters()], step, batches, steps, 1e-3, "RegionCLIP tower")
    with atomic_write(path) as temporary:
        torch.save({"model": original_layout(encoder.backbone)}, temporary)
    return right


def _regions_by_answer(encoder: RegionCLIP, records: Sequence[Record]) -> list[list[tuple[Tensor, Tensor]]]:
    """For each answer its regions: the pixels of the tower's view, (3, H, W) uint8, and the box in it, (4,)."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for record in tqdm(records, desc="images of the tower", mininterval=1.0):
        image = load_image(record.image_files[0])
        regions = record.resolve(image.size)
        pixels = encoder.preprocess(image, regions)["pixels"]
        view = View.resize(image.size, (pixels.shape[2], pixels.shape[1]))
        boxes = view.map_boxes(torch.tensor([region.bounds(image.size) for region in regions]))
        for box, (_, answer) in zip(boxes, turns_of(record), strict=True):
            found[answer].append((pixels, box))
    return [found[answer] for answer in sorted(found)]


def _window(pixels: Tensor, box: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """A square of WINDOW pixels somewhere around a box, and the box in it; pixels (3, H, W), box (4,)."""
    corner = []
    for low, high, size in zip(box[:2].tolist(), box[2:].tolist(), (pixels.shape[2], pixels.shape[1]), strict=True):
        first, last = max(math.ceil(high) - WINDOW, 0), min(math.floor(low), size - WINDOW)
        corner.append(rng.randint(first, last) if first < last else max(min(first, size - WINDOW), 0))
    x, y = corner
    return pixels[:, y : y + WINDOW, x : x + WINDOW], (box - torch.tensor([x, y, x, y])).clamp(0, WINDOW)


if __name__ == "__main__":
    main()
