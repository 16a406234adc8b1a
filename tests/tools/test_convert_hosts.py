"""`pvit-ext convert`: LLaVA-1.5 and 1.6 checkpoints with regions from one host to the other, and back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from llava.mm_utils import process_images
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, CLIPVisionModel

import pvit_ext
from pvit_ext import Region, cli
from pvit_ext.files import read_json
from pvit_ext.hosts.llava.region_token import HintTokenizer, tokenizer_region_token
from pvit_ext.hosts.transformers.classes import region_class
from pvit_ext.hosts.transformers.processor import with_regions_of
from pvit_ext.tools.convert.configs import check_is_convertible
from pvit_ext.tools.convert.processor_files import TEMPLATES, template_kind
from pvit_ext.tools.shards import open_checkpoint
from tests.checkpoints import relayout
from tests.hosts.transformers.zoo import ZOO
from tests.tiny import build_llava

OPTIONS = {"layers": [-2, -1], "position_grid": 8}
CONFIG = pvit_ext.RegionConfig(
    encoder="osprey", encoder_options=OPTIONS, box_embedding=True, lion_tags="hint", lion_aggregator="appended",
    lion_adapters=4,
)  # fmt: skip
TEXT = "USER: <image>\nBy <hint>: What is <region> ? Compare it with <region> ASSISTANT:"
REGIONS = [Region.box(30, 12, 60, 50), Region.polygon([(35, 5), (60, 10), (50, 40)])]
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 97, 3), dtype=np.uint8))
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
ANYRES = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad", "image_grid_pinpoints": PINPOINTS}
LAYOUTS: dict[str, dict[str, Any]] = {
    "pad": {},
    "crop": {"image_aspect_ratio": None},
    "anyres": {**ANYRES, "family": "mistral"},
}


@pytest.fixture(
    scope="module",
    params=[name if name == "pad" else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS],
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with regions, as it is saved: with its vision tower among its tensors or, padded, without."""
    folder = tmp_path_factory.mktemp(request.param)
    build_llava(folder / "plain", **LAYOUTS[request.param])
    _, model, _, _ = pvit_ext.load_pretrained_model(str(folder / "plain"))
    pvit_ext.attach(model, CONFIG)
    for part in (model.model.region_projector.box_embedding, model.model.region_hint):
        torch.nn.init.normal_(part.weight)
    for parameter in model.region_module.lion["lion_adapters"].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(out := folder / "llava")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (out / name).write_bytes((folder / "plain" / name).read_bytes())
    if request.param == "pad":
        drop_tower(out)
    return relayout(out, folder / "shards", ".bin", 3) if request.param == "crop" else out


def drop_tower(folder: Path) -> None:
    """As LLaVA-1.5 is published: its config names the tower, whose tensors are elsewhere."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if "vision_tower" not in name}
    assert len(kept) < len(state)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def tensors(folder: Path) -> dict[str, Tensor]:
    source = open_checkpoint(folder)
    return dict(source.read(source.tensors))


def llava_logits(folder: Path) -> tuple[list[int], Tensor]:
    """Ids of the prompt with LLaVA's sentinels, and logits."""
    tokenizer, model, images, _ = pvit_ext.load_pretrained_model(str(folder))
    ids = tokenizer_region_token(TEXT, HintTokenizer(tokenizer), return_tensors="pt")
    pixels = process_images([IMAGE], images, model.config)
    with torch.no_grad():
        out = model(input_ids=ids[None], images=pixels, regions=[REGIONS], image_sizes=[IMAGE.size])
    return ids.tolist(), out.logits[0]


def load_hub(folder: Path) -> tuple[Any, Any]:
    """Model and processor of a converted checkpoint."""
    stock = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0])
    model = region_class(stock).from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(
        folder, backend="pil"
    )  # LLaVA's pixels, where torchvision is installed too
    return model, with_regions_of(processor, folder)


def hub_logits(folder: Path, sentinels: list[int] | None = None) -> tuple[list[int], Tensor]:
    """Ids of the prompt, and logits; from the ids that LLaVA's own tokenizer gave."""
    model, processor = load_hub(folder)
    tokenizer = processor.tokenizer
    out = processor(images=[IMAGE], text=[TEXT], regions=[REGIONS], return_tensors="pt")
    region = tokenizer.convert_tokens_to_ids("<region>")
    if sentinels is not None:
        count = int((out["input_ids"] == model.config.image_token_id).sum())
        rows = int((out["input_ids"] == tokenizer.convert_tokens_to_ids("<image_row>")).sum())
        places = {-200: [model.config.image_token_id] * count + [tokenizer.convert_tokens_to_ids("<image_row>")] * rows}
        places[-300] = [region] * model.region_module.positions_per_region
        places[-301] = [tokenizer.convert_tokens_to_ids("<hint>")]
        ids = torch.tensor([[one for given in sentinels for one in places.get(given, [given])]])
        out["input_ids"], out["attention_mask"] = ids, torch.ones_like(ids)
    with torch.no_grad():
        return out["input_ids"][0].tolist(), model(**out).logits[0]


def test_logits_are_equal_and_all_comes_back(checkpoint: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    assert cli.main(["convert", str(checkpoint), "--to", "transformers", "--out", str(there)]) == 0
    ids, wanted = llava_logits(checkpoint)
    _, found = hub_logits(there, ids)
    torch.testing.assert_close(found[:, : wanted.shape[1]], wanted, atol=2e-6, rtol=0)
    assert cli.main(["convert", str(there), "--to", "llava", "--out", str(back)]) == 0
    before, after = tensors(checkpoint), tensors(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for path in [checkpoint / "config.json", *checkpoint.glob("token*")]:
        assert (back / path.name).read_bytes() == path.read_bytes()
    assert torch.equal(llava_logits(back)[1], wanted)


def test_stock_transformers_loads_it(checkpoint: Path, tmp_path: Path) -> None:
    import transformers
    from transformers import AutoConfig, AutoProcessor

    cli.main(["convert", str(checkpoint), "--to", "transformers", "--out", str(there := tmp_path / "there")])
    config = AutoConfig.from_pretrained(there)
    stock = getattr(transformers, config.architectures[0])
    model, info = stock.from_pretrained(there, output_loading_info=True)
    assert not info["missing_keys"]
    assert {name.split(".")[0] for name in info["unexpected_keys"] if ".mlp.lion_adapters." not in name} <= {
        "region_aggregator",
        "region_encoder",
        "region_hint",
        "region_projector",
    }
    processor = AutoProcessor.from_pretrained(there)
    chat = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert any(
        turn in text for turn in ("USER: <image>\nWhat is it? ASSISTANT:", "[INST] <image>\nWhat is it? [/INST]")
    )
    batch = processor(images=[IMAGE], text=[text], return_tensors="pt")
    with torch.no_grad():
        assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize("kind", TEMPLATES)
def test_chat_templates_say_what_llavas_do(kind: str) -> None:
    from llava.conversation import conv_templates
    from transformers.utils.chat_template_utils import render_jinja_template

    name = {"llava_llama": "v1", "llava_mistral": "mistral_instruct", "chatml": "chatml_direct"}[kind]
    conv = conv_templates[name].copy()
    ask: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": ask}, {"role": "assistant", "content": "A cat."}]
    turns.append({"role": "user", "content": "And this?"})
    texts = ["<image>\nWhat is it?", "A cat.", "And this?", None]
    for number, text in enumerate(texts):
        conv.append_message(conv.roles[number % 2], text)
    found, _ = render_jinja_template(
        conversations=[turns],
        chat_template=TEMPLATES[kind],
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert found[0].removeprefix("<s>") == conv.get_prompt().removeprefix("<s>")


@pytest.mark.parametrize(
    ("version", "kind"),
    [(None, "llava_mistral"), ("v1", "llava_llama"), ("chatml_direct", "chatml"), ("llava_llama_2", "llava_mistral")],
)
def test_the_chat_template_is_the_one_that_was_trained_with(
    version: str | None, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = SimpleNamespace(model_type="llava_mistral", pvit_ext={"conv_version": version})
    tokenizer = SimpleNamespace(get_vocab=dict)
    assert template_kind(host, tokenizer) == kind
    assert ("llava_llama_2" in caplog.text) == (version == "llava_llama_2")


def test_the_name_is_written_to_the_config(tmp_path: Path) -> None:
    model, processor = ZOO["llava"]()
    processor.chat_template = TEMPLATES["llava_mistral"]
    pvit_ext.attach(model, pvit_ext.RegionConfig("osprey", encoder_options=OPTIONS), processor=processor)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "hub")
    assert cli.main(["convert", str(tmp_path / "hub"), "--to", "llava", "--out", str(tmp_path / "out")]) == 0
    assert read_json(tmp_path / "out" / "config.json")["pvit_ext"]["conv_version"] == "mistral_instruct"


@pytest.mark.slow
def test_a_checkpoint_that_was_never_llavas(checkpoint: Path, tmp_path: Path) -> None:
    """Saved by transformers, in its newer layout of names and without the folder that remembers LLaVA's."""
    cli.main(["convert", str(checkpoint), "--to", "transformers", "--out", str(there := tmp_path / "there")])
    model, processor = load_hub(there)
    model.save_pretrained(hub := tmp_path / "hub")
    processor.save_pretrained(hub)
    ids, wanted = llava_logits(checkpoint)
    out = tmp_path / "llava"
    assert cli.main(["convert", str(hub), "--to", "llava", "--out", str(out)]) == 0
    assert (out / "vision_tower" / "model.safetensors").is_file()
    again, found = llava_logits(out)
    torch.testing.assert_close(found[: len(wanted), : wanted.shape[1]], wanted, atol=2e-6, rtol=0)
    assert again == ids


def test_a_model_made_from_a_config(tmp_path: Path) -> None:
    """transformers 5 then writes its tower without ``vision_model`` in the names."""
    for part in ZOO["llava"]():
        part.save_pretrained(tmp_path / "hub")
    assert cli.main(["convert", str(tmp_path / "hub"), "--to", "llava", "--out", str(tmp_path / "out")]) == 0
    tower = CLIPVisionModel.from_pretrained(tmp_path / "out" / "vision_tower").state_dict()
    own = ZOO["llava"]()[0].model.vision_tower.state_dict()
    assert tower.keys() == own.keys()
    assert all(torch.equal(value, tower[name]) for name, value in own.items())


@pytest.mark.parametrize(
    ("name", "why"), [("qwen2_vl", "a qwen2_vl on qwen2_vl_text"), ("llava_siglip", "is a siglip")]
)
def test_what_llavas_code_cannot_hold(name: str, why: str, tmp_path: Path, capsys: Any) -> None:
    ZOO[name]()[0].save_pretrained(tmp_path / "hub")
    assert cli.main(["convert", str(tmp_path / "hub"), "--to", "llava", "--out", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err


def test_a_layout_that_llava_takes_for_another_is_told(caplog: pytest.LogCaptureFixture) -> None:
    check_is_convertible(
        SimpleNamespace(model_type="llava_llama", mm_projector_type="mlp2x_gelu", image_aspect_ratio="padd")
    )
    assert "image_aspect_ratio 'padd'" in caplog.text


@pytest.mark.slow
def test_a_tower_that_was_trained_since_comes_back_too(checkpoint: Path, tmp_path: Path) -> None:
    cli.main(["convert", str(checkpoint), "--to", "transformers", "--out", str(there := tmp_path / "there")])
    model, _processor = load_hub(there)
    with torch.no_grad():
        for parameter in model.model.vision_tower.parameters():
            parameter.mul_(1.1)
    model.save_pretrained(there)
    for path in there.glob("model-*"):  # of the conversion
        path.unlink()
    (there / "model.safetensors.index.json").unlink()
    out = tmp_path / "llava"
    assert cli.main(["convert", str(there), "--to", "llava", "--out", str(out)]) == 0
    ids, found = llava_logits(out)
    _, wanted = hub_logits(there, ids)
    torch.testing.assert_close(found, wanted[:, : found.shape[1]], atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"mm_projector_type": "linear"}, ["--to", "transformers"], "mm_projector_type is 'linear'"),
        ({"family": "mpt"}, ["--to", "transformers"], "LLaVA on llava_mpt"),
        ({"mm_use_im_start_end": True}, ["--to", "transformers"], "mm_use_im_start_end"),
        ({}, ["--to", "transformers", "--vision-tower", "x"], "--vision-tower applies with --to llava"),
        ({}, ["--to", "llava"], "is one of LLaVA's own code already"),
    ],
)
def test_what_has_no_place_is_refused(
    settings: dict[str, Any], more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build_llava(tmp_path / "llava", **settings)
    assert cli.main(["convert", str(folder), *more, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["convert --to transformers", "convert --to llava", "convert-checkpoint", "swap"])
def test_a_taken_folder_is_refused_before_anything_is_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("")
    more = {"convert-checkpoint": ["--weights", "nowhere.pth"], "swap": ["--encoder", "osprey"]}.get(command, [])
    name, *flags = command.split()
    assert cli.main([name, str(tmp_path / "nowhere"), *flags, *more, "--out", str(tmp_path)]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
