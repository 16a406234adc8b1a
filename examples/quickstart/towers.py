"""The quickstart's two vision towers, each pre-trained on its own simple task before the language model sees it.

The CLIP tower learns, for the patches of a whole image, which digit in which colour lies there; the RegionCLIP tower
learns the same for boxes, on its own image path, and is written in the original checkpoint's layout.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from examples.quickstart.language import schedule
from examples.quickstart.world import COLOURS, Question, Scene
from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import build_region_encoder
from pvit_ext.encoders.regionclip.clip_resnet import ConvReLU
from pvit_ext.encoders.regionclip.encoder import RegionCLIP
from pvit_ext.encoders.regionclip.weights import batch_norm_of
from pvit_ext.files import atomic_write
from pvit_ext.regions.region import Region
from pvit_ext.regions.view import View, tower_view

Scenes = list[tuple[Scene, list[Question]]]
SELECT_LAYER = -2
"""The hidden layer that LLaVA reads; the towers' task is set there."""
CLIP_SIZE, PATCH = 112, 16
IMAGE_CONFIG = SimpleNamespace(image_aspect_ratio="pad")
REGION_OPTIONS: dict[str, Any] = {
    "layers": [1, 1, 1, 1],
    "width": 16,
    "heads": 8,
    "output_dim": 64,
    "pool": 4,
    "shortest_edge": 128,
    "longest_edge": 256,
}
_COLOUR_INDEX = {name: index for index, name in enumerate(COLOURS)}


class AttributeHead(nn.Module):
    """Reads digit and colour off a feature by its cosine with learned prototypes, as CLIP does; thrown away afterwards.

    It also holds features at unit length, where a fresh linear projector puts them near word embeddings in size.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.prototypes = nn.Linear(width, 10 + len(COLOURS), bias=False)

    def loss(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss, and the fractions (2,) of right digits and colours.

        Args:
            features: (N, C).
            targets: (N, 2) int64, digit and index of the colour.
        """
        cosine = F.linear(F.normalize(features, dim=1), F.normalize(self.prototypes.weight, dim=1))  # (N, 16)
        logits = (cosine * 20).split([10, len(COLOURS)], 1)
        losses = [F.cross_entropy(part, targets[:, axis]) for axis, part in enumerate(logits)]
        right = [(part.argmax(1) == targets[:, axis]).float().mean() for axis, part in enumerate(logits)]
        length = (features.norm(dim=1) - 1).square().mean()
        return losses[0] + losses[1] + 0.1 * length, torch.stack(right)


def image_processor() -> Any:
    """LLaVA-1.5's kind of image processor at the tiny tower's size."""
    return CLIPImageProcessor(size={"shortest_edge": CLIP_SIZE}, crop_size={"height": CLIP_SIZE, "width": CLIP_SIZE})


def pixels_of(processor: Any, images: list[Image.Image]) -> Tensor:
    """What LLaVA feeds the tower under ``image_aspect_ratio=pad``: (N, 3, CLIP_SIZE, CLIP_SIZE) float32."""
    from llava.mm_utils import process_images

    pixels: Tensor = process_images(images, processor, IMAGE_CONFIG)
    return pixels


def attributes_of(scene: Scene) -> Tensor:
    """Digit and index of the colour of each digit: (N, 2) int64."""
    return torch.tensor([[digit.value, _COLOUR_INDEX[digit.colour]] for digit in scene.digits])


def attribute_targets(processor: Any, scene: Scene) -> Tensor:
    """Digit and colour of every pixel under ``pad``: (2, CLIP_SIZE, CLIP_SIZE) int8, -100 on the background."""
    boxes = tower_view(processor, "pad", scene.image.size).map_boxes(torch.tensor([d.box for d in scene.digits]))
    targets = torch.full((2, CLIP_SIZE, CLIP_SIZE), -100, dtype=torch.int8)
    for (rows, columns), target in zip(pixels_within(boxes), attributes_of(scene), strict=True):
        targets[:, rows, columns] = target[:, None, None].to(torch.int8)
    return targets


def pixels_within(boxes: Tensor) -> list[tuple[slice, slice]]:
    """Rows and columns of the pixels whose integer coordinates lie in each of the boxes (N, 4)."""
    return [(slice(y0, y1), slice(x0, x1)) for x0, y0, x1, y1 in boxes.ceil().int().tolist()]


def at_patches(targets: Tensor) -> Tensor:
    """(B, C, CLIP_SIZE, CLIP_SIZE) -> what lies under each patch's centre, (B, P, C) int64."""
    return targets[..., PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].flatten(2).transpose(1, 2).long()


def train_clip_tower(folder: Path, scenes: Scenes, steps: int, batch: int = 32) -> list[float]:
    """Pre-train a tiny CLIP vision tower, save it with its processor, return the fractions of right digits and colours.

    Args:
        folder: where it goes.
        scenes: training scenes.
        steps: optimizer steps.
        batch: scenes a step.
    """
    torch.manual_seed(1)
    processor = image_processor()
    pixels = pixels_of(processor, [scene.image for scene, _ in scenes])
    targets = torch.stack([attribute_targets(processor, scene) for scene, _ in scenes])  # (S, 2, CLIP_SIZE, CLIP_SIZE)
    config = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=CLIP_SIZE,
        patch_size=PATCH,
        initializer_range=0.05,
    )
    tower, head = CLIPVisionModel(config), AttributeHead(config.hidden_size)

    def step(rows: Tensor) -> tuple[Tensor, Tensor]:
        wanted = at_patches(targets[rows])  # (B, P, 2)
        hidden = tower(pixels[rows], output_hidden_states=True).hidden_states[SELECT_LAYER][:, 1:]  # (B, P, C)
        seen = wanted[..., 0] >= 0
        return head.loss(hidden[seen], wanted[seen])

    generator = torch.Generator().manual_seed(0)
    batches = (torch.randint(len(scenes), (batch,), generator=generator) for _ in range(steps))
    right = fit_tower([*tower.parameters(), *head.parameters()], step, batches, steps, 1e-3, "CLIP tower")
    tower.save_pretrained(folder)
    processor.save_pretrained(folder)
    return right


def train_region_tower(path: Path, scenes: Scenes, steps: int, batch: int = 32) -> list[float]:
    """Pre-train a tiny RegionCLIP tower, save it as the original does, return fractions of right digits and colours."""
    encoder = region_tower_to_train(REGION_OPTIONS)
    head = AttributeHead(encoder.feature_dim)
    pixels, boxes, targets = zip(*(_region_sample(encoder, scene) for scene, _ in scenes), strict=True)

    def step(rows: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.cat([torch.full((len(boxes[row]),), number) for number, row in enumerate(rows)])
        images = encoder.normalize(torch.stack([pixels[row] for row in rows]))
        features = encoder.encode(images, torch.cat([boxes[row] for row in rows]), index)
        return head.loss(features, torch.cat([targets[row] for row in rows]))

    trained = [*encoder.parameters(), *head.parameters()]
    right = fit_tower(trained, step, _same_size_batches(pixels, batch), steps, 3e-3, "RegionCLIP tower")
    with atomic_write(path) as temporary:
        torch.save({"model": original_layout(encoder.backbone)}, temporary)
    return right


def region_tower_to_train(options: dict[str, Any]) -> RegionCLIP:
    """A RegionCLIP encoder with random weights, all of which train, and norms that count what they see.

    Args:
        options: of the encoder.
    """
    torch.manual_seed(2)
    encoder = build_region_encoder(RegionConfig(encoder_options=options))
    assert isinstance(encoder, RegionCLIP)
    unfold_batch_norms(encoder.backbone)
    encoder.requires_grad_(True)
    encoder.backbone.train()  # the encoder itself stays in eval mode: a frozen tower's norms do not move
    return encoder


def _region_sample(encoder: RegionCLIP, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    regions = [Region.box(*digit.box).resolve(scene.image.size) for digit in scene.digits]
    shown = encoder.preprocess(scene.image, regions)["pixels"]
    view = View.resize(scene.image.size, (shown.shape[2], shown.shape[1]))
    return shown, view.map_boxes(torch.tensor([digit.box for digit in scene.digits])), attributes_of(scene)


def _same_size_batches(pixels: tuple[Tensor, ...], size: int) -> Iterator[list[int]]:
    rng, groups = random.Random(0), defaultdict(list)
    for row, image in enumerate(pixels):
        groups[image.shape].append(row)
    shapes = list(groups)
    while True:
        members = groups[rng.choices(shapes, [len(groups[shape]) for shape in shapes])[0]]
        yield rng.sample(members, min(size, len(members)))


class NormedConv(nn.Conv2d):
    """A convolution with the batch norm that the encoder has folded away, for training."""

    def __init__(self, folded: nn.Conv2d) -> None:
        sizes: Any = {"kernel_size": folded.kernel_size, "stride": folded.stride, "padding": folded.padding}
        super().__init__(folded.in_channels, folded.out_channels, bias=False, **sizes)
        self.norm, self.rectify = nn.BatchNorm2d(folded.out_channels), isinstance(folded, ConvReLU)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        out: Tensor = self.norm(super().forward(x))
        return out.relu_() if self.rectify else out


def unfold_batch_norms(backbone: nn.Module) -> None:
    """Put a batch norm behind each convolution, where the original has it, in place."""
    for name, module in list(backbone.named_modules()):
        if isinstance(module, nn.Conv2d):
            parent, _, leaf = name.rpartition(".")
            setattr(backbone.get_submodule(parent), leaf, NormedConv(module))


def original_layout(backbone: nn.Module) -> dict[str, Tensor]:
    """``backbone.*`` with separate batch norms, as RegionCLIP's released checkpoints have them."""
    state: dict[str, Tensor] = {}
    for key, value in backbone.state_dict().items():
        layer, _, part = key.partition(".norm.")
        state[f"{batch_norm_of(layer)}.{part}" if part else key] = value.contiguous()
    state["attnpool.positional_embedding"] = state.pop("attnpool.positional_embedding.weight")
    state["attnpool.k_proj.bias"] = torch.zeros_like(state["attnpool.q_proj.bias"])
    return {f"backbone.{key}": value for key, value in state.items()}


def fit_tower(
    parameters: list[Any], step: Any, batches: Iterator[Any], steps: int, rate: float, title: str
) -> list[float]:
    """Train on ``step``'s loss with AdamW; return the mean of the fractions it gives, over the last tenth."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate, weight_decay=0.02)
    plan, rights = schedule(optimizer, steps), []
    for _ in (bar := tqdm(range(steps), desc=title, mininterval=1.0)):
        loss, right = step(next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        plan.step()
        rights.append(right)
        bar.set_postfix(loss=f"{loss.item():.3f}", right="/".join(f"{part:.2f}" for part in right), refresh=False)
    return torch.stack(rights[-max(steps // 10, 1) :]).mean(0).tolist()
