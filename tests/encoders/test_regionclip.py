"""The RegionCLIP encoder against the original's numbers (goldens g1a, g1c, g1e, g6b), and its own promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs, build_region_encoder
from pvit_ext.encoders.regionclip.attention_pool import AttentionPool
from pvit_ext.encoders.regionclip.encoder import RegionCLIP, build
from pvit_ext.ops.roi_align import roi_align
from pvit_ext.regions.region import Region
from tests.encoders.regionclip import TINY, inputs_of, make_image, relative, tiny


def test_very_long_images_still_have_a_cell() -> None:
    encoder = tiny()
    image = make_image(0, (900, 3))
    features = encoder(inputs_of(encoder, [(image, [Region.box(100, 0, 400, 3)])]))
    assert features.isfinite().all()


# Promises of its own


def batch_of(seed: int) -> list[tuple[Image.Image, list[Region]]]:
    return [
        (make_image(seed, (90, 70)), [Region.box(5, 6, 50, 40), Region.box(40, 10, 88, 69)]),
        (make_image(seed + 1, (60, 100)), []),
        (make_image(seed + 2, (60, 100)), [Region.point(30, 50)]),
        (make_image(seed + 3, (90, 70)), [Region.polygon([(10, 10), (80, 20), (40, 60)])]),
        (make_image(seed + 4, (120, 40)), [Region.box(0, 0, 120, 40), Region.scribble([(3, 3), (90, 30)])]),
    ]


def test_a_region_is_the_same_alone_and_in_any_batch() -> None:
    encoder, samples = tiny(), batch_of(0)
    together = encoder(inputs_of(encoder, samples))
    assert together.shape == (6, 1, 12)
    alone = [encoder(inputs_of(encoder, [(image, [region])])) for image, regions in samples for region in regions]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)
    order = [4, 2, 0, 3, 1]
    shuffled = encoder(inputs_of(encoder, [samples[i] for i in order]))
    starts = np.cumsum([0] + [len(regions) for _, regions in samples])
    rows = [row for i in order for row in range(starts[i], starts[i + 1])]
    torch.testing.assert_close(shuffled, together[rows], rtol=1e-5, atol=1e-6)
    spread = torch.pdist(together[:, 0]).min()
    assert spread > 1e-2  # the comparison above can fail: these features differ


def test_regions_of_one_image_may_be_interleaved_with_others() -> None:
    encoder, samples = tiny(), batch_of(0)
    inputs = inputs_of(encoder, samples)
    expected = encoder(inputs)
    order = torch.tensor([5, 0, 3, 2, 1, 4])
    mixed = RegionInputs(
        [inputs.regions[i] for i in order], inputs.image_index[order], inputs.image_sizes, extra=inputs.extra
    )
    torch.testing.assert_close(encoder(mixed), expected[order], rtol=1e-5, atol=1e-6)


def test_forward_is_deterministic() -> None:
    encoder = tiny()
    inputs = inputs_of(encoder, batch_of(3))
    assert torch.equal(encoder(inputs), encoder(inputs))
    assert torch.equal(encoder.train()(inputs), encoder.eval()(inputs))


def test_no_region_and_many_regions() -> None:
    encoder = tiny().to(torch.bfloat16)
    empty = encoder(RegionInputs([], torch.zeros(0, dtype=torch.int64), [(90, 70)], extra=[None]))
    assert empty.shape == (0, 1, 12)
    assert empty.dtype == torch.bfloat16
    encoder, image = tiny(), make_image(1, (90, 70))
    assert encoder.encode(torch.randn(1, 3, 64, 64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
        12,
    )
    many = [Region.box(i % 40, i % 31, i % 40 + 5 + i % 43, i % 31 + 4 + i % 33) for i in range(500)]
    features = encoder(inputs_of(encoder, [(image, many)]))
    assert features.shape == (500, 1, 12)
    few = encoder(inputs_of(encoder, [(image, many[490:])]))
    torch.testing.assert_close(features[490:], few, rtol=1e-5, atol=1e-6)


def test_dummy_extra_is_a_valid_input() -> None:
    encoder = tiny()
    inputs = RegionInputs([Region.box(4, 4, 12, 12)], torch.tensor([0]), [(16, 16)], extra=[encoder.dummy_extra()])
    assert encoder(inputs).isfinite().all()


def test_frozen_by_default_and_trainable_when_unfrozen() -> None:
    encoder = tiny()
    inputs = inputs_of(encoder, batch_of(0))
    frozen = encoder(inputs)
    assert not frozen.requires_grad
    encoder.requires_grad_(True)
    features = encoder(inputs)
    torch.testing.assert_close(features, frozen)
    features.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_unfreezing_only_the_pool_works() -> None:
    encoder = tiny()
    encoder.backbone.attnpool.requires_grad_(True)
    encoder(inputs_of(encoder, batch_of(0))).sum().backward()
    assert encoder.backbone.attnpool.v_proj.weight.grad.any()
    assert encoder.backbone.layer4[0].conv1.weight.grad is None


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_rounds_values_and_never_boxes(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes rounded to bf16 would move by up to 4 pixels here."""
    encoder, pooled_from = tiny(), []

    def spy(feature_map: Tensor, boxes: Tensor, *rest: Any) -> Tensor:
        pooled_from.append((feature_map.dtype, boxes))
        return roi_align(feature_map, boxes, *rest)

    monkeypatch.setattr("pvit_ext.encoders.regionclip.encoder.roi_align", spy)
    boxes = [Region.box(741.3, 401.2, 903.1, 575.7), Region.box(1001.7, 513.3, 1037.9, 551.1)]
    inputs = inputs_of(encoder, [(make_image(7, (1100, 700)), boxes)])
    exact = encoder(inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        again = encoder(inputs) if autocast else encoder.to(torch.bfloat16)(inputs)
    (_, expected), (dtype, used) = pooled_from
    assert used.dtype == torch.float32
    assert torch.equal(used, expected)
    assert dtype == (torch.float32 if autocast else torch.bfloat16)
    assert again.dtype == dtype
    assert relative(again, exact) < (1e-6 if autocast else 0.02)


def test_feature_follows_the_region_and_nothing_else() -> None:
    """Painting inside one region changes its feature much and a far region's little, on tall and wide images."""
    encoder = tiny()
    for size in ((240, 120), (120, 240), (200, 200)):
        width, height = size
        near, far = (0.65, 0.7, 0.9, 0.95), (0.05, 0.05, 0.3, 0.2)
        regions = [Region.box(*box, normalized=True) for box in (near, far)]
        plain = make_image(2, size)
        painted = plain.copy()
        x0, y0, x1, y1 = near
        painted.paste((255, 255, 255), (int(x0 * width), int(y0 * height), int(x1 * width), int(y1 * height)))
        before, after = (encoder(inputs_of(encoder, [(image, regions)]))[:, 0] for image in (plain, painted))
        change = (after - before).norm(dim=1)
        assert change[0] > 10 * change[1], (size, change)


def test_flipping_image_and_box_together_keeps_the_feature_of_a_symmetric_tower() -> None:
    encoder = tiny()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.ndim == 4:
                parameter.copy_((parameter + parameter.flip(3)) / 2)
            if "positional" in name:
                parameter.zero_()
    # conv1 strides over 2 pixels from column 0: 127 columns end on one too, and every later width is even
    image, box = make_image(5, (127, 64)), (8.0, 5.0, 70.0, 50.0)
    encoder.options = type(encoder.options)(**{**vars(encoder.options), "longest_edge": 128})
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # cell k of the map covers pixels 16 k to 16 k + 16, so the map's axis is pixel 64 (the image's is 63.5)
    mirrored = (128 - box[2], box[1], 128 - box[0], box[3])
    here = encoder(inputs_of(encoder, [(image, [Region.box(*box), Region.box(*mirrored)])]))[:, 0]
    there = encoder(inputs_of(encoder, [(flipped, [Region.box(*mirrored), Region.box(*box)])]))[:, 0]
    assert relative(here, here.flip(0)) > 0.01
    assert relative(here, there) < 1e-5


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_pool_equals_full_attention(heads: int) -> None:
    torch.manual_seed(0)
    pool = AttentionPool(9, 16, heads, 5).double()
    grid = torch.randn(3, 16, 3, 3, dtype=torch.float64)
    tokens = grid.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.positional_embedding.weight
    q, k, v = (
        torch.nn.functional.linear(tokens, layer.weight, bias).unflatten(2, (heads, -1)).transpose(1, 2)
        for layer, bias in (
            (pool.q_proj, pool.q_proj.bias),
            (pool.k_proj, torch.randn(16).double()),
            (pool.v_proj, pool.v_proj.bias),
        )
    )
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(pool(grid), pool.c_proj(full)[:, 0], rtol=1e-6, atol=1e-7)  # softmax in float32


def test_builds_by_name_and_refuses_unknown_options() -> None:
    config = RegionConfig("regionclip", encoder_options=TINY)
    encoder = build_region_encoder(config)
    assert isinstance(encoder, RegionCLIP)
    assert (encoder.feature_dim, encoder.tokens_per_region) == (12, 1)
    with pytest.raises(ValueError, match=r"unknown RegionCLIP arch 'rn101'; known: rn50x4, rn50"):
        build(RegionConfig(encoder_options={"arch": "rn101"}))
    with pytest.raises(ValueError, match=r"unknown RegionCLIP options \['depth'\]; known: arch, layers"):
        build(RegionConfig(encoder_options={"depth": 3}))
    with pytest.raises(ValueError, match="pool and width are even"):
        build(RegionConfig(encoder_options=TINY | {"pool": 5}))
    with pytest.raises(ValueError, match="do not divide into 7 heads"):
        build(RegionConfig(encoder_options=TINY | {"heads": 7}))


def test_missing_pixels_are_named() -> None:
    encoder = tiny()
    with pytest.raises(ValueError, match="image 0 has regions but no pixels"):
        encoder(RegionInputs([Region.box(1, 1, 5, 5)], torch.tensor([0]), [(20, 20)]))


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    encoder = tiny()
    inputs = inputs_of(encoder, batch_of(0))
    expected = encoder(inputs)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        features = encoder.cuda()(inputs)
    assert relative(features.cpu(), expected) < 1e-5
    assert relative(encoder.bfloat16()(inputs).cpu(), expected) < 0.02


def test_on_the_cpu_a_map_is_the_same_alone_and_in_a_batch_to_the_last_bit() -> None:
    torch.manual_seed(0)
    encoder = build(RegionConfig(encoder_options=TINY))
    extra: list[Any] = [encoder.preprocess(Image.fromarray(noise(number)), []) for number in range(4)]
    regions = [Region.box(4, 4, 40, 40).resolve((90, 60), "region")] * 4
    inputs = RegionInputs(regions, torch.arange(4), [(90, 60)] * 4, extra=extra)
    together = encoder.maps([0, 1, 2, 3], inputs)
    assert together.stride()[1] == 1
    for image in range(4):
        assert torch.equal(encoder.maps([image], inputs)[0], together[image])


def noise(number: int) -> Any:
    return np.random.RandomState(number).randint(0, 255, (60, 90, 3), dtype=np.uint8)
