"""Focal crops: equal to Describe Anything's numbers, at the right place, and the tower unchanged at the start."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel

import pvit_ext
from pvit_ext import Query
from pvit_ext.config import RegionConfig
from pvit_ext.encoders import focal
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.regions.region import Region
from tests.checkpoints import save
from tests.goldens import rules
from tests.goldens.shapes import header
from tests.tower_inputs import KINDS, SIZES, as_kind, boxes_on, draw

GOLDEN = "g8_focal"
CLIP = CLIPVisionConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=35, patch_size=7
)
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def tower_of(model: Any) -> Any:
    processor = SimpleNamespace(image_mean=MEAN, image_std=STD)
    return SimpleNamespace(vision_tower=model.requires_grad_(False), image_processor=processor, config=model.config)


@pytest.fixture
def clip() -> Any:
    torch.manual_seed(0)
    return tower_of(CLIPVisionModel(CLIP))


def made(gates: float = 0.0, **options: Any) -> focal.Focal:
    torch.manual_seed(1)
    encoder = focal.build(RegionConfig("focal", encoder_options=options), CLIP)
    with torch.no_grad():
        for block in encoder.blocks:
            block.attention_gate.weight.fill_(gates)
            block.mlp_gate.weight.fill_(gates)
        encoder.mask_embedding.weight.normal_(std=gates or 1e-9).mul_(gates > 0)
    return encoder


def inputs_of(encoder: focal.Focal, tower: Any, samples: list[tuple[np.ndarray, list[Region]]]) -> RegionInputs:
    """Pictures (H, W) of brightness, and the maps that the tower gives of them, squeezed to its square."""
    images = [Image.fromarray((255 * np.repeat(one[..., None], 3, 2)).astype(np.uint8)) for one, _ in samples]
    sizes = [image.size for image in images]
    regions = [
        [region.resolve(image.size) for region in given] for image, (_, given) in zip(images, samples, strict=True)
    ]
    squares = torch.stack([torch.from_numpy(np.array(image.resize((35, 35)))).permute(2, 0, 1) for image in images])
    with torch.no_grad():
        states = tower.vision_tower(squares.float() / 255, output_hidden_states=True).hidden_states[-2][:, 1:]
    return RegionInputs(
        regions=[region for given in regions for region in given],
        image_index=torch.tensor([i for i, given in enumerate(regions) for _ in given], dtype=torch.int64),
        image_sizes=sizes,
        feature_maps=[states.transpose(1, 2).unflatten(2, (5, 5))],
        extra=[
            encoder.preprocess(image, given) if given else None for image, given in zip(images, regions, strict=True)
        ],
        tower=tower,
    )


def batch(seed: int = 0) -> list[tuple[np.ndarray, list[Region]]]:
    random, samples = np.random.RandomState(seed), []
    for size, count in zip([(96, 64), (60, 100), (180, 100)], [2, 0, 3], strict=True):
        regions = [as_kind(KINDS[n], boxes_on(size)[n], size) for n in range(count)]
        samples.append((random.uniform(size=size[::-1]), regions))
    return samples


# The original


@pytest.mark.skipif(not hasattr(transformers, "SiglipVisionModel"), reason="SigLIP came with transformers 4.37")
def test_equals_the_original(tmp_path: Path) -> None:
    """Narrow SigLIP; the original gives the whole image its mask channel too, in a pass without cross-attention."""
    args, shapes = header(GOLDEN, "args"), header(GOLDEN, "shapes")
    config = transformers.SiglipVisionConfig(
        hidden_size=args["hidden"], intermediate_size=48, num_hidden_layers=args["layers"],
        num_attention_heads=args["heads"], image_size=args["image"], patch_size=args["patch"],
    )  # fmt: skip
    weights = {key: rules.weight(key, shape, 8) for key, shape in shapes.items()}
    torch.save(weights, tmp_path / "dam.pt")
    model = transformers.SiglipVisionModel(config).eval()
    own = model.state_dict()
    prefix = "vision_tower." + ("" if any(key.startswith("vision_model.") for key in own) else "vision_model.")
    for key in own.keys() & {key.removeprefix(prefix) for key in weights}:
        own[key] = weights[prefix + key][:, :3] if key.endswith("patch_embedding.weight") else weights[prefix + key]
    model.load_state_dict(own)
    encoder = focal.build(RegionConfig("focal"), config)
    encoder.load_weights(str(tmp_path / "dam.pt"))
    golden, tower = load_file(Path(__file__).parents[1] / "goldens" / f"{GOLDEN}.safetensors"), tower_of(model)
    with torch.no_grad():
        whole = encoder.encode(tower, golden["in.full"], golden["in.full_mask"] * 2.0 - 1)
        crop = golden["in.crop"], golden["in.crop_mask"] * 2.0 - 1
        features = encoder.encode(tower, *crop, whole, torch.arange(2))
        wrong = encoder.encode(tower, *crop, whole, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(features, golden["out.features"], rtol=1e-4, atol=2e-4)
    assert (wrong[1] - golden["out.features"][1]).abs().max() > 1
    incomplete = {key: value for key, value in weights.items() if "layers.0.cross_attn.q" not in key}
    torch.save(incomplete, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"missing: .*blocks\.0\.query\.weight"):
        encoder.load_weights(str(tmp_path / "part.pt"))


@pytest.mark.parametrize("case", header(GOLDEN, "crops"), ids=lambda case: str(case["crop_hw"]))
def test_crops_are_the_originals(case: dict[str, Any]) -> None:
    height, width = case["hw"]
    top, bottom, left, right = case["mask_rows_cols"]
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    x0, y0, x1, y1 = made().crop_box(Region.mask(mask), (width, height))
    assert [y1 - y0, x1 - x0] == case["crop_hw"]
    assert mask[y0:y1, x0:x1].sum() == case["mask_sum"]
    pixels = np.ascontiguousarray(rules.image("g8.img", height, width, 8)[y0:y1, x0:x1])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == case["sha_img"]


# Place


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["box", "mask", "polygon"])
def test_mask_channel_lies_on_the_pixels_of_the_region(kind: str, size: tuple[int, int]) -> None:
    encoder = made(least=1)
    for box in boxes_on(size):
        picture = Image.fromarray((255 * draw(size, box)).astype(np.uint8)).convert("RGB")
        crops = encoder.preprocess(picture, [as_kind(kind, box, size)])["crops"][0].float()
        assert 0.05 < (crops[3] > 127).float().mean() < 0.6
        assert ((crops[0] > 127) == (crops[3] > 127)).float().mean() > 0.97  # bicubic and bilinear edges


def test_flipping_image_and_regions_flips_the_crops() -> None:
    encoder, size = made(least=1, context=2.0), (180, 100)
    pixels = np.random.RandomState(0).randint(0, 255, (100, 180, 3), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes_on(size):
        box = x0, y0, x1 - (x1 - x0) % 2, y1  # an odd side is rounded to whole pixels towards the left
        flipped = size[0] - box[2], box[1], size[0] - box[0], box[3]
        one, other = (
            encoder.preprocess(Image.fromarray(np.ascontiguousarray(seen)), [Region.box(*place)])["crops"].float()
            for seen, place in ((pixels, box), (pixels[:, ::-1], flipped))
        )
        assert (one - other.flip(3)).abs().max() <= 2


# The tower


def test_starts_as_the_tower_itself(clip: Any) -> None:
    encoder, samples = made(shuffle=1), batch()
    inputs = inputs_of(encoder, clip, samples)
    crops = torch.cat([one["crops"] for one in inputs.extra if one is not None])
    pixels = (crops[:, :3].float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        states = clip.vision_tower(pixels, output_hidden_states=True).hidden_states
        hooks = [len(module._forward_hooks) for module in clip.vision_tower.modules()]  # transformers 5 has its own
        assert torch.equal(encoder(inputs), states[-2][:, 1:])
    assert [len(module._forward_hooks) for module in clip.vision_tower.modules()] == hooks


def test_shuffle_puts_squares_of_patches_side_by_side(clip: Any) -> None:
    plain, encoder = made(shuffle=1), made()
    inputs = inputs_of(encoder, clip, batch())
    with torch.no_grad():
        patches, tokens = plain(inputs).unflatten(1, (5, 5)), encoder(inputs)
    assert tokens.shape == (5, 9, 128) == (5, encoder.tokens_per_region, encoder.feature_dim)
    assert torch.equal(tokens[:, 4], patches[:, 2:4, 2:4].flatten(1))
    assert torch.equal(tokens[:, 2, :32], patches[:, 0, 4])
    assert not tokens[:, 2, 32:64].any()  # the grid has 5 columns


def test_layers_attend_to_the_whole_image_of_their_own_region(clip: Any) -> None:
    encoder = made(0.5)
    inputs = inputs_of(encoder, clip, batch())
    with torch.no_grad():
        before = encoder(inputs)
        inputs.feature_maps[0][2] += torch.randn(32, 5, 5)
        change = (encoder(inputs) - before).abs().amax((1, 2))
    assert torch.equal(change[:2], torch.zeros(2))
    assert (change[2:] > 1e-3).all()


@pytest.mark.parametrize("passes", [1, 2, 16])
def test_a_region_is_the_same_alone_and_in_any_batch(clip: Any, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(focal, "REGIONS_PER_PASS", passes)
    encoder, samples = made(0.5), batch()
    with torch.no_grad():
        together = encoder(inputs_of(encoder, clip, samples))
        alone = [encoder(inputs_of(encoder, clip, [(p, [r])])) for p, rs in samples for r in rs]
        inputs = inputs_of(encoder, clip, samples)
        inputs.image_index, inputs.regions = inputs.image_index.flip(0), inputs.regions[::-1]
        inputs.extra = [one and {"crops": one["crops"].flip(0)} for one in inputs.extra]
        shuffled = encoder(inputs)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shuffled, together.flip(0), rtol=1e-5, atol=1e-5)
    assert torch.pdist(together.flatten(1)).min() > 1e-2


def test_gradients_reach_every_parameter_and_never_the_tower(clip: Any) -> None:
    encoder = made(0.5).train()
    clip.vision_tower.train()
    clip.vision_tower.gradient_checkpointing_enable()  # trainers enable it in the whole model
    inputs = inputs_of(encoder, clip, batch())
    encoder(inputs).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in clip.vision_tower.parameters())
    assert all(module.training for module in clip.vision_tower.modules())
    closed = made()
    closed(inputs).square().sum().backward()
    for name, parameter in closed.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == ("gate" in name or "mask_embedding" in name), name


def test_no_region_and_the_dummy(clip: Any) -> None:
    encoder = made(0.5)
    none = inputs_of(encoder, clip, [(np.zeros((50, 60)), [])])
    assert encoder(none).shape == (0, 9, 128)
    none.regions, none.image_index = [Region.box(4, 4, 12, 12)], torch.tensor([0])
    none.extra = [encoder.dummy_extra()]
    assert encoder(none).isfinite().all()
    none.extra = [None]
    with pytest.raises(ValueError, match=r"image 0 has 1 regions, but other crops; put Focal.preprocess"):
        encoder(none)


@pytest.mark.parametrize("options", [{"context": 0.5}, {"shuffle": 0}, {"layer": 0}, {"layer": 9}, {"zoom": 3}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"focal|the tower has"):
        made(**options)


def test_in_a_llava_model(llava_checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = RegionConfig("focal", encoder_options={"least": 8})
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=config, device="cpu"
    )
    samples = batch()
    queries = [
        Query(Image.fromarray((255 * picture).astype(np.uint8)), "Is it " + "<region>" * len(regions), regions)
        for picture, regions in samples
    ]
    answers = pvit_ext.ask(model, tokenizer, processor, queries, max_new_tokens=4)
    assert answers == [pvit_ext.ask(model, tokenizer, processor, [one], max_new_tokens=4)[0] for one in queries]
    for block in model.get_model().region_encoder.blocks:
        torch.nn.init.normal_(block.attention_gate.weight)
    saved = pvit_ext.load_pretrained_model(str(save(model, tmp_path / "saved")), device="cpu")[1]
    own, read = model.get_model().region_encoder.state_dict(), saved.get_model().region_encoder.state_dict()
    assert own.keys() == read.keys()
    assert all(torch.equal(value, read[key]) for key, value in own.items())
    assert pvit_ext.ask(saved, tokenizer, processor, queries, max_new_tokens=4) == pvit_ext.ask(
        model, tokenizer, processor, queries, max_new_tokens=4
    )
