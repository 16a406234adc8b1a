"""The region processor of every family: what the model gets of texts, images and regions."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AddedToken

from pvit_ext.config import CONFIG_KEY, RegionConfig, regions_to_json
from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.hosts.transformers.processor import RegionProcessorMixin, give_regions, with_regions_of
from pvit_ext.hosts.transformers.processor_regions import ProcessorRegions
from pvit_ext.regions.region import Region, RegionError
from pvit_ext.regions.view import View
from pvit_ext.tokens.region_module import RegionModule
from tests.hosts.transformers.zoo import ZOO, Pair, prompt
from tests.hosts.transformers.zoo_of_others import OTHERS

ALL = {**ZOO, **OTHERS}
OSPREY = RegionConfig(encoder="osprey", encoder_options={"layers": [-2, -1], "position_grid": 8})
RANDOM = np.random.default_rng(0)
WIDE, TALL = (Image.fromarray(RANDOM.integers(0, 255, shape, dtype=np.uint8)) for shape in ((60, 97, 3), (90, 41, 3)))
BOX, OTHER = Region.box(10, 20, 40, 50), Region.box(3, 40, 20, 70)


def with_regions(pair: Pair, config: RegionConfig = OSPREY) -> Pair:
    """A model's config and processor as ``attach`` leaves them; the model itself stays stock."""
    model, processor = pair
    tower = family_of(model.config).tower_config(model.config)
    module = RegionModule(config, model.config.get_text_config().hidden_size, tower)
    setattr(model.config, CONFIG_KEY, regions_to_json(module.config, module.facts))
    token = AddedToken("<region>", special=True, normalized=False)
    processor.tokenizer.add_tokens([token], special_tokens=True)
    regions = ProcessorRegions.of(model.config)
    assert regions is not None
    return model, give_regions(processor, regions)


def ask(processor: Any, regions: Sequence[Region] = (BOX,), image: Any = WIDE, **more: Any) -> Any:
    """A call with one text, whose regions lie on one image."""
    text = prompt(processor, "what is in " + " and ".join(["<region>"] * len(regions)) + " ?")
    return processor(images=[image], text=[text], regions=[list(regions)], return_tensors="pt", **more)


def check_same(one: Any, other: Any) -> None:
    assert torch.equal(one["input_ids"], other["input_ids"])
    assert str(one["regions"]) == str(other["regions"])
    assert one["region_views"] == other["region_views"]


def count(processor: Any, ids: torch.Tensor) -> int:
    return int((ids == processor.tokenizer.convert_tokens_to_ids("<region>")).sum())


@pytest.mark.parametrize("name", ALL)
def test_a_region_takes_its_tokens(name: str) -> None:
    model, processor = ALL[name]()
    plain = [prompt(processor, "what is in the dog ?"), prompt(processor, "where")]
    stock = processor(images=[[WIDE], [TALL]], text=plain, return_tensors="pt", padding=True)
    _, processor = with_regions((model, processor))
    same = processor(images=[[WIDE], [TALL]], text=plain, return_tensors="pt", padding=True)
    assert list(same) == list(stock)
    assert all(torch.equal(same[key], stock[key]) for key in stock)
    texts = [prompt(processor, "what is in <region> ?"), prompt(processor, "where is <region> and <region>")]
    out = processor(
        images=[[WIDE], [TALL]], text=texts, regions=[[BOX], [OTHER, BOX]], return_tensors="pt", padding=True
    )
    positions = processor.pvit_regions.samples.positions_per_region
    assert [count(processor, ids) for ids in out["input_ids"]] == [positions, 2 * positions]
    assert [[region.image for region in row] for row in out["regions"]] == [[0], [1, 1]]
    assert out["region_sizes"] == [(97, 60), (41, 90)]
    assert len(out["region_views"]) == len(out["region_extra"]) == 2
    assert torch.equal(out["pixel_values"], stock["pixel_values"])
    if "mm_token_type_ids" in stock:
        marks = out["mm_token_type_ids"][out["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<region>")]
        assert marks.eq(0).all()
        assert len(marks) == 3 * positions


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_regions_have_positions_of_text(name: str) -> None:
    model, processor = with_regions(ALL[name]())
    out = ask(processor, image=TALL)
    token = processor.tokenizer.convert_tokens_to_ids("<region>")
    as_text = out["input_ids"].masked_fill(out["input_ids"] == token, processor.tokenizer.convert_tokens_to_ids("dog"))
    found, wanted = (
        model.model.get_rope_index(
            ids,
            mm_token_type_ids=out["mm_token_type_ids"],
            image_grid_thw=out["image_grid_thw"],
            attention_mask=out["attention_mask"],
        )[0]
        for ids in (out["input_ids"], as_text)
    )
    assert torch.equal(found, wanted)
    here = (out["input_ids"][0] == token).nonzero().flatten()
    places = found[:, 0, here]  # (3, S)
    assert (places == places[:1]).all()
    assert (places[0].diff() == 1).all()


@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "qwen2_5_vl", "gemma3", "internvl"])
def test_chat_items_of_regions(name: str) -> None:
    _, processor = with_regions(ALL[name]())
    content = [
        {"type": "image", "image": WIDE},
        {"type": "text", "text": "what is in"},
        {"type": "region", "region": BOX},
        {"type": "text", "text": "?"},
    ]
    chat = [{"role": "USER", "content": content}]
    keyword = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    out = processor.apply_chat_template(chat, **keyword)
    assert [item["type"] for item in content] == ["image", "text", "region", "text"]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text.count("<region>") == 1
    same = processor(images=[WIDE], text=[text], regions=[[BOX]], return_tensors="pt")
    check_same(out, same)
    plain = [{"role": "USER", "content": [{"type": "text", "text": "where is the cat ?"}]}]
    mixed = processor.apply_chat_template([chat, plain], **keyword, processor_kwargs={"padding": True})
    positions = processor.pvit_regions.samples.positions_per_region
    assert [count(processor, ids) for ids in mixed["input_ids"]] == [positions, 0]
    assert [len(row) for row in mixed["regions"]] == [1, 0]


def test_chat_items_in_two_ways_or_without_a_region_are_refused() -> None:
    _, processor = with_regions(ALL["llava"]())
    item: dict[str, Any] = {"type": "region", "region": BOX}
    chat = [{"role": "USER", "content": [{"type": "image", "image": WIDE}, item]}]
    with pytest.raises(RegionError, match="regions are given twice"):
        processor.apply_chat_template(chat, tokenize=True, processor_kwargs={"regions": [[BOX]]})
    item["region"] = [1, 2, 3, 4]
    with pytest.raises(RegionError, match=r"a region item is .*Region\.box.*got .*\[1, 2, 3, 4\]"):
        processor.apply_chat_template(chat)


def test_truncation_that_cuts_a_region_names_the_sample() -> None:
    _, processor = with_regions(ALL["llava"]())
    length = ask(processor)["input_ids"].shape[1]
    assert ask(processor, truncation=True, max_length=length)["input_ids"].shape[1] == length
    with pytest.raises(RegionError, match="sample 0: truncation leaves 3 of the 4 positions of its 1 region"):
        ask(processor, truncation=True, max_length=length - 2)


@pytest.mark.parametrize(
    ("texts", "images", "regions", "message"),
    [
        (["<image> <region>"], [WIDE], [[]], "sample 0: 1 <region> placeholders but 0 regions"),
        (["<image> <region>"], [WIDE], None, "sample 0: 1 <region> placeholders but 0 regions"),
        (["<image> what"], [WIDE], [[BOX]], "sample 0: 0 <region> placeholders but 1 regions"),
        (["<image> <region>", "<image> what"], [WIDE, TALL], [[BOX]], "regions holds 1 lists for 2 texts"),
        (["<region>"], [WIDE], [[BOX]], "0 <image> in 1 text.s., 1 images"),
        (["<region>"], None, [[BOX]], "sample 0, region 0: lies on image 0, the sample has 0 image"),
        (["<image> <region>", "what"], [[WIDE, TALL], []], [[BOX], []], "sample 0: 1 <image> in its text, 2 images"),
        (["<image> <region>"], [WIDE], [[Region.box(1, 1, 9, 9, image=1)]], "lies on image 1, the sample has 1"),
        (["<image> <region>"], [WIDE], [[Region.box(200, 1, 300, 9)]], "sample 0, region 0.*97x60"),
        (["<image> <region>"], [WIDE], [[Region.box(0, 1, 9, 9)]], "sample 0, region 0.*crops .* away"),
        (
            ["<image> <region>"],
            [WIDE],
            [[(1, 2, 3)]],
            r"^sample 0, region 0 is tuple \(1, 2, 3\); ",
        ),
        (["<image> <region>"] * 2, [WIDE, WIDE], BOX, "^regions is one region, for 2 prompts: give a list of regions"),
        (["<image> <region>"], ["no.png"], [[BOX]], "no.png"),
    ],
)
def test_what_does_not_fit_together_is_refused(texts: Any, images: Any, regions: Any, message: str) -> None:
    _, processor = with_regions(ALL["llava"]())
    with pytest.raises((RegionError, FileNotFoundError), match=message):
        processor(images=images, text=texts, regions=regions, padding=True)


def test_sizes_of_a_single_call() -> None:
    _, processor = with_regions(ALL["llava"]())
    for more in ({"do_center_crop": False}, {"images_kwargs": {"size": {"shortest_edge": 56}}}):
        with pytest.raises(RegionError, match=r"in a call with regions.*processor\.image_processor\.size"):
            ask(processor, **more)
    _, processor = with_regions(ALL["qwen2_5_vl"]())
    small = ask(processor, size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 6})
    _, rows, columns = small["image_grid_thw"][0].tolist()
    assert rows * columns <= 24
    assert small["region_views"][0][0] == View.resize(WIDE.size, (14 * columns, 14 * rows))


def test_one_text_takes_a_flat_list() -> None:
    _, processor = with_regions(ALL["llava"]())
    flat = processor(images=WIDE, text="<image> <region>", regions=[BOX], return_tensors="pt")
    check_same(flat, processor(images=[WIDE], text=["<image> <region>"], regions=[[BOX]], return_tensors="pt"))


def test_inline_markup_is_a_region() -> None:
    _, processor = with_regions(ALL["llava"]())
    out = processor(images=WIDE, text="<image> <Region>[0.2, 0.2, 0.8, 0.8]</Region>", return_tensors="pt")
    assert count(processor, out["input_ids"]) == 4
    assert out["regions"][0][0].bounds(WIDE.size) == pytest.approx((19.4, 12, 77.6, 48))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_paths_and_pil_images_are_turned_upright(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    WIDE.save(path := tmp_path / "turned.png", exif=exif)
    _, processor = with_regions(ALL[name]())
    region = Region.box(10, 40, 50, 90)  # below the picture that is not turned
    with Image.open(path) as opened:
        one, two = ask(processor, [region], str(path)), ask(processor, [region], opened)
    assert one["region_sizes"] == two["region_sizes"] == [(60, 97)]
    upright = ask(processor, [region], WIDE.transpose(Image.Transpose.ROTATE_270))
    assert all(torch.equal(upright["pixel_values"], other["pixel_values"]) for other in (one, two))


def test_text_encoders_write_words() -> None:
    model, processor = with_regions(ALL["llava"](), RegionConfig(encoder="text"))
    out = ask(processor)
    assert "regions" not in out
    assert count(processor, out["input_ids"]) == 0
    assert out["input_ids"].shape[1] > 20
    with torch.no_grad():
        assert model(**out).logits.isfinite().all()


def test_overlay_paints() -> None:
    _, processor = with_regions(ALL["llava"](), RegionConfig(encoder="overlay"))
    out = ask(processor)
    assert "regions" not in out
    plain = processor(images=[WIDE], text=[prompt(processor, "what")], return_tensors="pt")
    assert not torch.equal(out["pixel_values"], plain["pixel_values"])


def test_moving_a_batch_leaves_what_is_no_tensor() -> None:
    _, processor = with_regions(ALL["llava_next"]())
    out = ask(processor)
    views, regions = out["region_views"], out["regions"]
    moved = out.to("cpu", torch.bfloat16)
    assert moved["pixel_values"].dtype == torch.bfloat16
    assert moved["region_views"] == views
    assert moved["regions"] == regions


@pytest.mark.parametrize("name", ["llava", "llava_next", "gemma3"])
def test_saved_and_loaded(tmp_path: Path, name: str) -> None:
    _, processor = with_regions(ALL[name]())
    before = ask(processor)
    processor.save_pretrained(tmp_path)
    stock = type(processor).__mro__[2]
    assert stock.__module__.startswith("transformers.")
    assert stock.__name__ == type(processor).__name__
    plain = stock.from_pretrained(tmp_path)
    assert type(plain) is stock
    assert not isinstance(plain, RegionProcessorMixin)
    for loaded in (with_regions_of(plain, tmp_path), type(processor).from_pretrained(tmp_path)):
        after = ask(loaded)
        check_same(before, after)
        assert loaded.pvit_regions == processor.pvit_regions


def test_a_stock_folder_gives_a_stock_processor(tmp_path: Path) -> None:
    _, processor = ALL["llava"]()
    stock = type(processor)
    processor.save_pretrained(tmp_path)
    assert type(with_regions_of(stock.from_pretrained(tmp_path), tmp_path)) is stock


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_copies(name: str) -> None:
    _, processor = with_regions(ALL[name]())
    before = ask(processor)
    for other in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert type(other) is type(processor)
        after = ask(other)
        check_same(before, after)


def test_threads() -> None:
    _, processor = with_regions(ALL["llava_next"]())
    calls = [[BOX] * number for number in (1, 2, 3, 4)] * 8
    alone = [ask(processor, regions) for regions in calls]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(pool.map(lambda regions: ask(processor, regions), calls), alone, strict=True):
            check_same(one, other)


@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "qwen2_5_vl", "pixtral", "internvl"])
def test_several_images_in_a_prompt(name: str) -> None:
    _, processor = with_regions(ALL[name]())
    text = prompt(processor, prompt(processor, "what is in <region> and <region> ?"))
    on_second = Region.box(3, 40, 20, 70, image=1)
    out = processor(images=[WIDE, TALL], text=[text], regions=[[on_second, BOX]], return_tensors="pt")
    assert [region.image for region in out["regions"][0]] == [1, 0]
    assert len(out["region_views"]) == len(out["region_extra"]) == 2
