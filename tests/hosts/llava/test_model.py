"""The model classes: errors that name the sample, half precision, checkpointing, frozen language models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

import pvit_ext
from pvit_ext import Region, RegionConfig, RegionError
from pvit_ext.hosts.llava.classes import REGION_CLASSES, region_class, region_class_of_config
from tests.samples import BOX, OTHER, REGION, SIZE, Sample, collate, configure
from tests.tiny import HALF_DTYPES, build_llava


@pytest.fixture(scope="module")
def shared_model(llava_checkpoint: Path) -> Any:
    config = RegionConfig("test_boxes")
    return pvit_ext.load_pretrained_model(str(llava_checkpoint), region_config=config, device="cpu")[1]


@pytest.fixture
def model(shared_model: Any) -> Iterator[Any]:
    yield shared_model
    shared_model.eval()
    shared_model.zero_grad()


def bad(pieces: list[Any], **changes: Any) -> dict[str, Any]:
    return collate([Sample(["I", 5, BOX]), Sample(pieces)], left=False) | changes


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (bad(["I", 5, BOX, OTHER], regions=[[BOX], [BOX]]), r"sample 1: 2 <region>.*1 regions"),
        (bad(["I", 5, BOX], regions=[[BOX], None]), r"sample 1: 1 <region>.*0 regions"),
        (bad(["I", 5], regions=[[BOX], [OTHER]]), r"sample 1: 0 <region>.*1 regions"),
        (bad(["I", 5, BOX], regions=[[BOX]]), r"regions holds 1 samples, input_ids 2"),
        (bad([5, BOX]), r"sample 1, region 0: lies on image 0, the prompt has 0 image"),
        (bad(["I", replace(BOX, image=1)]), r"sample 1, region 0: lies on image 1, the prompt has 1 image"),
        (bad(["I", replace(BOX, image=-1)]), r"sample 1, region 0: lies on image -1"),
        (bad(["I", BOX], image_sizes=None), r"sample 0, region 0: image_sizes must give"),
        (bad(["I", BOX], image_sizes=[SIZE]), r"sample 1, region 0: image_sizes must give"),
        (bad(["I", BOX, Region.box(50, 2, 60, 12)]), r"sample 1, region 1: box .* outside its image"),
        (bad(["I", BOX], images=None), r"regions were given, but no images"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_misfits_name_the_sample(model: Any, inputs: dict[str, Any], message: str, training: bool) -> None:
    configure(model)
    model.train(training)
    with pytest.raises(RegionError, match=message):
        model(**inputs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("regions", [None, [None, None], [[], []]])
def test_sentinel_without_regions(model: Any, training: bool, regions: Any) -> None:
    configure(model)
    model.train(training)
    with pytest.raises(RegionError, match="<region>"):
        model(**bad(["I", BOX], regions=regions))
    with pytest.raises(RegionError, match="<region>"):
        model.generate(
            bad(["I", BOX])["input_ids"], images=bad(["I", BOX])["images"], regions=regions, max_new_tokens=1
        )


def test_sentinel_without_images_or_regions(model: Any) -> None:
    with pytest.raises(RegionError, match="no regions were given"):
        model(torch.tensor([[5, REGION]]))
    with pytest.raises(RegionError, match="no regions were given"):
        model.generate(torch.tensor([[5, REGION]]), max_new_tokens=1)


def test_regions_without_an_encoder(llava_checkpoint: Path) -> None:
    plain = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")[1]
    for call in (plain, plain.generate):
        inputs = {key: value for key, value in bad(["I", BOX]).items() if key != "labels"}
        with pytest.raises(RegionError, match=r"no region encoder: pvit_ext.attach"):
            call(inputs.pop("input_ids"), **inputs)


@pytest.mark.parametrize("extra", [None, [], [None, None], [{}, {}]])
def test_missing_extra_says_what_to_pass(loaded: Any, extra: Any) -> None:
    inputs = collate([Sample([3]), Sample(["I", 5, BOX])], left=False)
    with pytest.raises(
        RegionError, match=r"^sample 1, region 0, image 1 of the batch: .*'regionclip'.*pass region_extra="
    ):
        loaded[1](**inputs, region_extra=extra)


def test_extra_may_be_missing_for_images_without_regions(loaded: Any) -> None:
    extra = [None, {"pixels": torch.zeros(3, 32, 64, dtype=torch.uint8)}]
    loaded[1](**collate([Sample([3]), Sample(["I", 5, BOX])], left=False), region_extra=extra)


def test_regions_beside_inputs_embeds(model: Any) -> None:
    with pytest.raises(RegionError, match="regions were given beside inputs_embeds"):
        model(inputs_embeds=torch.randn(1, 5, 48), regions=[[BOX]])


# Classes


@pytest.mark.parametrize("ours", REGION_CLASSES)
def test_class_of_a_stock_class_and_of_its_config(ours: Any) -> None:
    stock = ours.__bases__[1]
    assert stock.__module__.startswith("llava.")
    assert (ours.__name__, ours.config_class) == (stock.__name__, stock.config_class)
    assert region_class(stock) is region_class(ours) is region_class_of_config(ours.config_class()) is ours


def test_class_of_another_model() -> None:
    with pytest.raises(ValueError, match=r"'llama' is no LLaVA checkpoint; known: \['llava_llama'"):
        region_class_of_config(LlamaConfig())


# Precision, freezing, checkpointing


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    batch = collate([Sample(["I", 5, BOX, 7, 8]), Sample([9, 11]), Sample([OTHER, BOX, "I", 13, 4])], left=False)
    labels = torch.where(batch["input_ids"] > 0, batch["input_ids"], -100)
    return batch | {"labels": labels, "images": batch["images"].to(dtype)}


def gradients(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(**inputs(dtype)).loss
    assert loss.isfinite()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@HALF_DTYPES
@pytest.mark.parametrize("projector", ["same", "float32"])
def test_half_precision(llava_checkpoint: Path, dtype: torch.dtype, projector: str) -> None:
    """With the projector in the model's dtype, and in float32 beside it."""
    options = RegionConfig("test_boxes", box_embedding=True)
    path = str(llava_checkpoint)
    model = pvit_ext.load_pretrained_model(path, region_config=options, device="cpu", dtype=dtype)[1].train()
    if projector == "float32":
        model.get_model().region_projector.float()
    found = gradients(model, dtype)
    for name, parameter in model.get_model().region_projector.named_parameters():
        gradient = found[f"model.region_projector.{name}"]
        assert gradient.dtype == parameter.dtype
        assert gradient.isfinite().all()
        assert gradient.any()


def test_box_embedding_is_float32_under_autocast(model: Any) -> None:
    configure(model, box_embedding=True)
    embedding = model.get_model().region_projector.box_embedding
    torch.nn.init.normal_(embedding.weight)
    box = torch.tensor([[0.123456, 0.2, 0.654321, 0.9]])
    expected = embedding(box)
    torch.testing.assert_close(expected, box @ embedding.weight.T + embedding.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding(box), expected)


def test_autocast_trains(model: Any) -> None:
    configure(model, box_embedding=True)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model)
    assert found["model.region_projector.features.weight"].any()


@pytest.mark.parametrize("family", ["mistral", "mpt"])
def test_other_language_models_train(family: str, tmp_path: Path) -> None:
    path = str(build_llava(tmp_path / family, family=family))
    model = pvit_ext.load_pretrained_model(path, region_config=RegionConfig("test_boxes"), device="cpu")[1].train()
    found = gradients(model)
    prefix = model.base_model_prefix
    assert all(found[f"{prefix}.region_projector.{name}"].any() for name in ("features.weight", "delimiters.weight"))


def test_dummy_region_reaches_an_encoder_of_tower_features(llava_checkpoint: Path) -> None:
    options = RegionConfig("test_boxes", encoder_options={"layers": [-2]})
    path = str(llava_checkpoint)
    model = pvit_ext.load_pretrained_model(path, region_config=options, device="cpu")[1].train()
    seen = []
    model.get_model().region_encoder.register_forward_hook(lambda _m, args, _out: seen.append(args[0]))
    batch = {**collate([Sample(["I", 5]), Sample([9])], left=False), "regions": None, "image_sizes": None}
    model(**batch)
    (dummy,) = seen
    assert dummy.feature_maps[0].shape == (1, 32, 4, 4)
    assert dummy.tower_boxes.tolist() == [[7.0, 7.0, 21.0, 21.0]]  # 4..12 of 16 pixels in 28
