"""The RegionCLIP encoder against the original's numbers (goldens g1a, g1c, g1e, g6b), and its own promises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs, build_region_encoder
from pvit_ext.encoders.regionclip.attention_pool import AttentionPool
from pvit_ext.encoders.regionclip.encoder import RegionCLIP, build
from pvit_ext.encoders.regionclip.weights import original_shapes
from pvit_ext.ops.roi_align import roi_align
from pvit_ext.regions.region import Region
from pvit_ext.regions.view import View
from tests.benchmarks.straightforward_clip import StraightforwardCLIPResNet, randomize_batch_norms
from tests.goldens import rules

GOLDENS = Path(__file__).parents[1] / "goldens"
NARROW = {"layers": [2, 2, 3, 2], "width": 8, "heads": 4, "output_dim": 24, "pool": 18}
TINY = {"layers": [1, 1, 1, 1], "width": 8, "heads": 4, "output_dim": 12, "pool": 4}
TINY |= {"shortest_edge": 64, "longest_edge": 120}


def header(name: str, key: str) -> Any:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()[key])


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{name}.safetensors")


def ruled_weights(name: str) -> dict[str, Tensor]:
    return {key: rules.weight(key, shape, 1) for key, shape in header(name, "shapes").items()}


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def loaded(options: dict[str, Any], content: Any, folder: Path) -> RegionCLIP:
    path = folder / "weights.pth"
    torch.save(content, path)
    encoder = build(RegionConfig(encoder_options=options))
    encoder.load_weights(str(path))
    return encoder


def tiny(seed: int = 0) -> RegionCLIP:
    """A tiny tower whose features differ clearly between regions."""
    torch.manual_seed(seed)
    encoder = build(RegionConfig(encoder_options=TINY))
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
        elif name.endswith("proj.weight"):
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return encoder


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(rules.image("regionclip", size[1], size[0], seed))


def inputs_of(encoder: RegionCLIP, samples: list[tuple[Image.Image, list[Region]]]) -> RegionInputs:
    """A batch as the collator makes it; an image without regions has no extra."""
    return RegionInputs(
        regions=[region.resolve(image.size) for image, regions in samples for region in regions],
        image_index=torch.tensor([i for i, (_, regions) in enumerate(samples) for _ in regions], dtype=torch.int64),
        image_sizes=[image.size for image, _ in samples],
        extra=[encoder.preprocess(image, regions) if regions else None for image, regions in samples],
    )


# The original's numbers


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> RegionCLIP:
    return loaded(NARROW, {"model": ruled_weights("g1a_regionclip_narrow")}, tmp_path_factory.mktemp("narrow"))


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


def test_very_long_images_still_have_a_cell() -> None:
    encoder = tiny()
    image = picture(0, (900, 3))
    features = encoder(inputs_of(encoder, [(image, [Region.box(100, 0, 400, 3)])]))
    assert features.isfinite().all()


# Checkpoints (golden g1e): every case that the original loads, and every one it accepts without loading


def narrow_checkpoint() -> dict[str, Tensor]:
    return ruled_weights("g1a_regionclip_narrow")


def renamed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key.removeprefix("backbone."): value for key, value in narrow_checkpoint().items()}


EXTRA = {
    f"{key}.weight": torch.zeros(2) for key in ("lang_encoder.x", "teacher_backbone.conv1", "offline_backbone.conv1")
}
CLIP_TEXT = {
    key: torch.zeros(2)
    for key in ("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "positional_embedding", "logit_scale")
}
COUNTERS = {"backbone.bn1.num_batches_tracked": torch.tensor(7)}
ACCEPTED = {
    "model": lambda: {"model": narrow_checkpoint(), "iteration": 7},
    "bare": narrow_checkpoint,
    "extra": lambda: narrow_checkpoint() | EXTRA | COUNTERS,
    "visual": lambda: renamed("visual.") | CLIP_TEXT,
    "no prefix": lambda: renamed("") | EXTRA | CLIP_TEXT | COUNTERS,
    "half": lambda: {key: value.half().float() for key, value in narrow_checkpoint().items()},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_checkpoint_layouts_that_load(case: str, narrow: RegionCLIP, tmp_path: Path) -> None:
    encoder = loaded(NARROW, ACCEPTED[case](), tmp_path)
    for key, value in narrow.state_dict().items():
        torch.testing.assert_close(
            encoder.state_dict()[key], value, rtol=2e-3 if case == "half" else 0, atol=1e-3 * (case == "half")
        )
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def without(part: str) -> dict[str, Tensor]:
    return {key: value for key, value in narrow_checkpoint().items() if part not in key}


REFUSED = {
    "other names": (lambda: renamed("vision_tower."), r"179 of 179 missing: attnpool.c_proj.bias, .*, \.\.\."),
    "missing attnpool": (lambda: without("attnpool"), "9 of 179 missing: attnpool.c_proj.bias"),
    "one missing": (lambda: without("layer3.1.bn2.running_var"), "1 of 179 missing: layer3.1.bn2.running_var"),
    "wrong grid": (
        lambda: narrow_checkpoint() | {"backbone.attnpool.positional_embedding": torch.zeros(50, 256)},
        r"1 of 179 of another shape: attnpool.positional_embedding \(50, 256\) instead of \(82, 256\)",
    ),
    "unexpected": (
        lambda: narrow_checkpoint() | {"backbone.layer1.7.conv1.weight": torch.zeros(1)},
        "1 of 179 unexpected: layer1.7.conv1.weight",
    ),
    "unexpected without prefix": (
        lambda: renamed("") | {"layer9.weight": torch.zeros(1)},
        "1 of 179 unexpected: layer9",
    ),
    "nothing": (dict, "53 of 53 missing"),
    "a list": (lambda: [torch.zeros(1)], "holds a list, not a state dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_checkpoints_that_do_not_fit_are_refused_whole(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    encoder = build(RegionConfig(encoder_options=NARROW))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    torch.save(content(), tmp_path / "weights.pth")
    if case == "nothing":
        message = f"{len(before)} of {len(before)} missing"
    with pytest.raises(ValueError, match=message):
        encoder.load_weights(str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_weights_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for size in (0, 6):
        path.write_bytes(b"PK-cut"[:size])
        with pytest.raises(ValueError, match=f"{path.name} is damaged.*fetch it again"):
            build(RegionConfig(encoder_options=NARROW)).load_weights(str(path))


def test_true_size_layout_has_the_434_tensors_of_the_original() -> None:
    with torch.device("meta"):
        encoder = build(RegionConfig(encoder_options={"arch": "rn50x4"}))
    folded = {key: tuple(value.shape) for key, value in encoder.backbone.state_dict().items()}
    stored = {key.removeprefix("backbone."): tuple(s) for key, s in header("g1c_regionclip_rn50x4", "shapes").items()}
    assert original_shapes(folded) == stored
    assert len(stored) == 434
    with torch.device("meta"):
        rn50 = build(RegionConfig(encoder_options={"arch": "rn50"}))
    assert rn50.backbone.attnpool.positional_embedding.weight.shape == (50, 2048)
    assert rn50.feature_dim == 1024


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_folded_layout_round_trip(suffix: str, tmp_path: Path) -> None:
    encoder, other = tiny(0), tiny(1)
    path = tmp_path / f"folded.{suffix}"
    state = {key: value.contiguous() for key, value in encoder.state_dict().items()}
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    other.load_weights(str(path))
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


class Payload:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (print, ("code of a checkpoint ran",))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*TorchScript archive:UserWarning")
def test_archives_with_code_are_refused_with_a_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "openai.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(script))
    torch.save({"model": Payload()}, tmp_path / "evil.pth")
    for path in (script, tmp_path / "evil.pth"):
        with pytest.raises(ValueError, match=r"torch\.save\(torch\.jit\.load\(path\)\.state_dict\(\), new_path\)"):
            tiny().load_weights(str(path))
    assert "code of a checkpoint ran" not in capsys.readouterr().out


# Promises of its own


def batch_of(seed: int) -> list[tuple[Image.Image, list[Region]]]:
    return [
        (picture(seed, (90, 70)), [Region.box(5, 6, 50, 40), Region.box(40, 10, 88, 69)]),
        (picture(seed + 1, (60, 100)), []),
        (picture(seed + 2, (60, 100)), [Region.point(30, 50)]),
        (picture(seed + 3, (90, 70)), [Region.polygon([(10, 10), (80, 20), (40, 60)])]),
        (picture(seed + 4, (120, 40)), [Region.box(0, 0, 120, 40), Region.scribble([(3, 3), (90, 30)])]),
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
    encoder, image = tiny(), picture(1, (90, 70))
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
    inputs = inputs_of(encoder, [(picture(7, (1100, 700)), boxes)])
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
        plain = picture(2, size)
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
    image, box = picture(5, (127, 64)), (8.0, 5.0, 70.0, 50.0)
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
    with torch.backends.cudnn.flags(allow_tf32=False):
        features = encoder.cuda()(inputs)
    assert relative(features.cpu(), expected) < 1e-5
    assert relative(encoder.bfloat16()(inputs).cpu(), expected) < 0.02
