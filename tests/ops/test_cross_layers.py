"""Gated cross layers behind any encoder, through the whole model: identity at first, trained, saved, kept, loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import pvit_ext
from pvit_ext import Region, RegionConfig
from tests.checkpoints import save
from tests.samples import Sample, collate
from tests.tiny import TINY_REGIONCLIP
from tests.tower_inputs import KINDS

OPTIONS: dict[str, dict[str, Any]] = {
    "test_boxes": {},  # reads no layer of the tower
    "regionclip": TINY_REGIONCLIP,
    "gpt4roi": {"pool": 4, "rounds": 1},  # reads several
    "cross_attention": {"heads": 2, "head_dim": 8},
    "focal": {"least": 4},
}


def config(encoder: str, layers: int, **values: Any) -> RegionConfig:
    return RegionConfig(encoder, encoder_options=dict(OPTIONS[encoder]), cross_layers=layers, **values)


def model_with(checkpoint: Path, encoder: str, layers: int) -> Any:
    torch.manual_seed(3)
    return pvit_ext.load_pretrained_model(str(checkpoint), region_config=config(encoder, layers), device="cpu")[1]


def batch(model: Any) -> dict[str, Any]:
    from PIL import Image

    from pvit_ext.tokens.processor import RegionProcessor

    asked = [["I", 5, Region.box(1, 2, 30, 15), 6], [7, 8, "I", 9], ["I", Region.point(20, 10), Region.box(2, 2, 9, 9)]]
    inputs = collate([Sample(one) for one in asked], left=False)
    extra: list[Any] = []
    processor, image = RegionProcessor.of(model.region_module), Image.new("RGB", (40, 20))
    for sample in asked:
        regions = [piece for piece in sample if isinstance(piece, Region)]
        extra += processor([image], ["<region>" * len(regions)], regions, "q").extra
    return inputs | {"region_extra": extra}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


def opened(model: Any) -> Any:
    for block in model.get_model().region_projector.cross_layers.blocks:
        torch.nn.init.ones_(block.gates.weight)
    return model


@pytest.mark.parametrize("encoder", OPTIONS)
def test_identity_at_first_and_every_gradient(encoder: str, llava_checkpoint: Path) -> None:
    plain, model = model_with(llava_checkpoint, encoder, 0), model_with(llava_checkpoint, encoder, 2)
    model.get_model().region_encoder.load_state_dict(plain.get_model().region_encoder.state_dict())
    own = plain.get_model().region_projector.state_dict()
    model.get_model().region_projector.load_state_dict(own, strict=False)
    layers = model.get_model().region_projector.cross_layers
    assert torch.equal(logits(plain), logits(model))
    model.train()(**batch(model)).loss.backward()
    assert all(block.gates.weight.grad.all() for block in layers.blocks)
    assert (logits(opened(model)) - logits(plain)).abs().max() > 1e-4
    model.train()(**batch(model)).loss.backward()
    for name, parameter in layers.named_parameters():
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in model.get_vision_tower().parameters())


def test_a_region_is_the_same_alone_and_in_any_batch(llava_checkpoint: Path) -> None:
    model = opened(model_with(llava_checkpoint, "test_boxes", 2)).eval()
    seen: list[Tensor] = []
    model.get_model().region_projector.register_forward_hook(lambda _m, _a, out: seen.append(out))
    pieces = [["I", Region.box(1, 2, 30, 15)], ["I", Region.box(2, 2, 9, 9), Region.point(20, 10)], [3, "I"]]
    together = collate([Sample(one) for one in pieces], left=False)
    alone = collate([Sample(pieces[1])], left=False) | {"images": together["images"][1:2]}
    with torch.no_grad():
        model(**together), model(**alone)
    torch.testing.assert_close(seen[0][1:], seen[1], rtol=1e-5, atol=1e-5)


def test_layers_see_the_image_and_not_the_one_of_another_sample(llava_checkpoint: Path) -> None:
    model = opened(model_with(llava_checkpoint, "test_boxes", 1)).eval()
    seen: list[Tensor] = []
    model.get_model().region_projector.register_forward_hook(lambda _m, _a, out: seen.append(out))
    inputs = collate([Sample(["I", Region.box(1, 2, 30, 15)]), Sample(["I", Region.box(1, 2, 30, 15)])], left=False)
    with torch.no_grad():
        model(**inputs)
        inputs["images"][1] += 1
        model(**inputs)
    change = (seen[1] - seen[0]).abs().amax((1, 2))
    assert change[0] == 0
    assert change[1] > 1e-4


def test_saved_loaded_and_missing(llava_checkpoint: Path, tmp_path: Path) -> None:
    model = opened(model_with(llava_checkpoint, "gpt4roi", 2))
    folder = save(model, tmp_path / "saved")
    again = pvit_ext.load_pretrained_model(str(folder), device="cpu")[1]
    assert again.region_config.cross_layers == 2
    assert torch.equal(logits(again), logits(model))
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(llava_checkpoint))
    again = pvit_ext.load_pretrained_model(str(tmp_path / "modules"), device="cpu")[1]
    assert torch.equal(logits(again), logits(model))

    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if ".cross_layers." not in k}, file, metadata={"format": "pt"})
    fresh = pvit_ext.load_pretrained_model(str(folder), device="cpu")[1].get_model().region_projector.cross_layers
    assert not any(block.gates.weight.any() for block in fresh.blocks)
    assert torch.equal(fresh.norm_patches.weight, torch.ones(32))
    assert 0 < fresh.blocks[0].query.weight.abs().max() < 0.3
    save_file({k: v for k, v in tensors.items() if ".gates." not in k}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks its tensors .*cross_layers\.blocks\.0\.gates"):
        pvit_ext.load_pretrained_model(str(folder), device="cpu")


def test_may_be_added_between_the_stages(llava_checkpoint: Path, tmp_path: Path) -> None:
    stage1 = model_with(llava_checkpoint, "gpt4roi", 0)
    pvit_ext.save_region_modules(stage1, tmp_path, base=str(llava_checkpoint))
    stage2 = model_with(llava_checkpoint, "gpt4roi", 2)
    pvit_ext.load_region_modules(stage2, tmp_path)
    assert torch.equal(logits(stage1), logits(stage2))


def test_attach_keeps_layers_that_fit(llava_checkpoint: Path) -> None:
    model = opened(model_with(llava_checkpoint, "gpt4roi", 2))
    before = model.get_model().region_projector.cross_layers.state_dict()
    pvit_ext.attach(model, RegionConfig("osprey"))  # of the same width
    after = model.get_model().region_projector.cross_layers.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    pvit_ext.attach(model, replace(config("test_boxes", 0), cross_layers=None))
    assert not any(block.gates.weight.any() for block in model.get_model().region_projector.cross_layers.blocks)
    pvit_ext.attach(model, config("test_boxes", 0))  # said, so done
    assert model.get_model().region_projector.cross_layers is None
    pvit_ext.attach(model, RegionConfig("text"))
    assert model.region_config.cross_layers == 0


def test_all_kinds(llava_checkpoint: Path) -> None:
    from tests.tower_inputs import as_kind

    model = opened(model_with(llava_checkpoint, "test_boxes", 1))
    regions = [as_kind(kind, (2, 3, 20, 15), (40, 20)) for kind in KINDS]
    inputs = collate([Sample(["I", *regions])], left=False)
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_command_line_flag(llava_checkpoint: Path) -> None:
    from pvit_ext.hosts.llava import compat

    compat.prepare_training()
    from pvit_ext.training.llava.arguments import RegionModelArguments

    def arguments(**values: Any) -> RegionModelArguments:
        return RegionModelArguments(model_name_or_path=str(llava_checkpoint), **values)

    assert arguments(region_cross_layers=2).region_config(None).cross_layers == 2
    assert arguments().region_config(None).cross_layers is None
    assert arguments(region_cross_layers=2).region_config(RegionConfig("osprey")).cross_layers == 2
    assert arguments().region_config(RegionConfig("osprey", cross_layers=3)).cross_layers == 3
    with pytest.raises(ValueError, match=r"\{'cross_layers': 2\}; say what it has: .*, or swap"):
        arguments(region_cross_layers=2).region_config(RegionConfig("osprey", cross_layers=3))
