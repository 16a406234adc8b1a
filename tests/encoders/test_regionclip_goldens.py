"""RegionCLIP against the original's numbers: goldens g1a, g1c, g1e and g6b."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.regionclip.encoder import RegionCLIP, build
from pvit_ext.regions.view import View
from tests.benchmarks.straightforward_clip import StraightforwardCLIPResNet, randomize_batch_norms
from tests.encoders.regionclip import NARROW, golden, header, loaded, relative, ruled_weights
from tests.goldens import rules


def test_g1a_features_without_padding(narrow: RegionCLIP) -> None:
    numbers = golden("g1a_regionclip_narrow")
    boxes = numbers["in.boxes1"]
    features = narrow.encode(numbers["in.image1"][None], boxes, torch.zeros(len(boxes), dtype=torch.int64))
    assert relative(features, numbers["out.feats1_without_padding"]) < 1e-5


def test_g1a_every_stage_of_the_batch_that_the_original_padded(narrow: RegionCLIP) -> None:
    numbers = golden("g1a_regionclip_narrow")
    images, boxes = ([numbers[f"in.{kind}{i}"] for i in (0, 1)] for kind in ("image", "boxes"))
    index = torch.tensor([0] * len(boxes[0]) + [1] * len(boxes[1]))
    stages: dict[str, Tensor] = {}
    hooks = [narrow.backbone.layer3, narrow.backbone.layer4]
    handles = [layer.register_forward_hook(keep(stages, i)) for i, layer in enumerate(hooks)]
    features = narrow.encode(pad(images), torch.cat(boxes), index)
    for handle in handles:
        handle.remove()
    assert relative(stages["out0"], numbers["mid.res4"]) < 1e-5
    assert relative(stages["in1"][:, :8], numbers["mid.pooled_ch0_8"]) < 1e-5
    assert relative(stages["out1"][:, :16], numbers["mid.layer4_ch0_16"]) < 1e-5
    assert relative(features, torch.cat([numbers["out.feats0"], numbers["out.feats1"]])) < 1e-5


def keep(stages: dict[str, Tensor], number: int) -> Callable[[Any, Any, Tensor], None]:
    def hook(_module: Any, args: Any, output: Tensor) -> None:
        stages[f"in{number}"], stages[f"out{number}"] = args[0], output

    return hook


def pad(images: list[Tensor]) -> Tensor:
    """Zeros to the right and below, as the original batches."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    return torch.stack(
        [torch.nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
    )


@pytest.fixture(scope="module")
def rn50x4(tmp_path_factory: pytest.TempPathFactory) -> RegionCLIP:
    return loaded({"arch": "rn50x4"}, ruled_weights("g1c_regionclip_rn50x4"), tmp_path_factory.mktemp("rn50x4"))


@pytest.mark.slow
def test_g1c_true_size(rn50x4: RegionCLIP) -> None:
    numbers = golden("g1c_regionclip_rn50x4")
    image = Image.fromarray(rules.image("g1c_regionclip_full_rn50x4.image", 480, 640, 1))
    pixels = rn50x4.normalize(rn50x4.preprocess(image, [])["pixels"][None])
    assert relative(pixels[0, :, ::16, ::16], numbers["in.image_resized_every16"]) < 1e-6
    boxes = numbers["in.boxes_resized"]
    assert relative(rn50x4.backbone.trunk(pixels)[..., ::8, ::8], numbers["mid.res4_every8"]) < 1e-5
    features = rn50x4.encode(pixels, boxes, torch.zeros(len(boxes), dtype=torch.int64))
    assert relative(features, numbers["out.feats"]) < 1e-5


@pytest.mark.slow
def test_g6b_region_features_of_the_whole_path(rn50x4: RegionCLIP) -> None:
    numbers = golden("g6b_region_features")
    sizes = [(96, 128), (150, 90), (80, 80)]
    images = [Image.fromarray(rules.image(f"g6.im{i}", *size, 6)) for i, size in enumerate(sizes)]
    pixels = [rn50x4.normalize(rn50x4.preprocess(image, [])["pixels"]) for image in images]
    for i, image in enumerate(pixels):
        assert relative(image[:, ::32, ::32], numbers[f"in.region_clip_image{i}_every32"]) < 1e-6
    boxes = [numbers[f"in.region_clip_boxes{i}"] for i in range(3)]
    index = torch.cat([torch.full((len(part),), i) for i, part in enumerate(boxes)])
    features = rn50x4.encode(pad(pixels), torch.cat(boxes), index)
    assert relative(features, torch.cat([numbers[f"mid.region_feats{i}"] for i in range(3)])) < 1e-5


def test_equals_the_straightforward_tower_it_is_benchmarked_against(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"layers": (1, 2, 1, 2), "width": 8, "heads": 2, "output_dim": 6, "pool": 6}
    plain = StraightforwardCLIPResNet(**sizes)
    randomize_batch_norms(plain)
    encoder = loaded(sizes, plain.state_dict(), tmp_path)
    pixels, regions = torch.randn(2, 3, 75, 101), torch.randn(3, 128, 6, 6)
    assert relative(encoder.backbone.trunk(pixels), plain.trunk(pixels)) < 2e-6
    assert relative(encoder.backbone.head(regions), plain.head(regions)) < 2e-6
    plain.attnpool.one_query = True
    assert relative(encoder.backbone.head(regions), plain.head(regions)) < 2e-6


# Preprocessing


def test_g1e_sizes() -> None:
    encoder = build(RegionConfig(encoder_options=NARROW))
    for height, width, new_height, new_width in header("g1e_regionclip_preprocess", "sizes"):
        assert encoder.view_size((width, height)) == (new_width, new_height)


@pytest.mark.parametrize("case", [0, 1, 2, 3])
def test_g1e_pixels_and_boxes(case: int) -> None:
    numbers, facts = golden("g1e_regionclip_preprocess"), header("g1e_regionclip_preprocess", "images")[case]
    encoder = build(RegionConfig(encoder_options=NARROW))
    name, height, width = facts["name"], facts["h"], facts["w"]
    pixels = encoder.preprocess(Image.fromarray(rules.image(f"g1e.{name}", height, width, 1)), [])["pixels"]
    assert pixels.dtype == torch.uint8
    image = encoder.normalize(pixels[None])[0]
    assert list(image.shape) == facts["out_shape"]
    assert torch.equal(image[:, ::16, ::16], numbers[f"out.{name}.image_every16"])
    assert torch.equal(image[:, :32, :32], numbers[f"out.{name}.image_patch_top32_left32"])
    assert torch.equal(image[:, -16:, -16:], numbers[f"out.{name}.image_patch_bottom16_right16"])
    assert hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() == facts["out_sha256_f32"]
    boxes = numbers["in.box_fractions"] * torch.tensor([width, height, width, height])
    boxes[2] = boxes[2, [2, 3, 0, 1]]  # the original silently turns this inverted box around
    mapped = View.resize((width, height), (image.shape[2], image.shape[1])).map_boxes(boxes)
    torch.testing.assert_close(mapped, numbers[f"out.{name}.boxes"], rtol=1e-7, atol=0)
