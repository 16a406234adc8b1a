"""``load_pretrained_model``, ``attach``, ``ask`` and ``swap`` take transformers' own models by what a folder holds."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import Query, RegionConfig, cli
from pvit_ext.config import CONFIG_KEY
from pvit_ext.encoders.overlay import Overlay, OverlayOptions
from pvit_ext.files import read_json
from pvit_ext.hosts.find import host_of
from pvit_ext.hosts.transformers.classes import OuterMixin
from pvit_ext.hosts.transformers.entry import TransformersModels
from pvit_ext.tools.merge import merge_checkpoint
from pvit_ext.tools.swap import swap_encoder
from tests.hosts.tiny_hosts import BOX, MIXED, WIDE
from tests.hosts.transformers.inputs import OSPREY, SPECIALS
from tests.hosts.transformers.zoo import ROWS, ZOO

Loaded = tuple[Any, Any, Any]
CHOSEN = RegionConfig("osprey", encoder_options=OSPREY, box_embedding=True, delimiters=True)


@pytest.fixture(scope="module", params=["llava", pytest.param("llava_next", marks=pytest.mark.slow)])
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stock checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    for part in ZOO[request.param]():
        part.save_pretrained(folder)
    return folder


def load(folder: Path, **options: Any) -> Loaded:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), device="cpu", **options)
    unread = range(len(tokenizer), ROWS)  # rows of the embedding without a word
    model.generation_config.suppress_tokens = [*SPECIALS, 2, *unread]
    return model, tokenizer, processor


@pytest.fixture(scope="module")
def asked(stock: Path) -> Loaded:
    torch.manual_seed(1)
    return load(stock, region_config=CHOSEN)


def answers(loaded: Loaded, queries: list[Query] = MIXED, **options: Any) -> Any:
    return pvit_ext.ask(*loaded, queries, **{"max_new_tokens": 4, **options})


def test_the_host_is_found_and_the_third_thing_is_the_processor(asked: Loaded) -> None:
    model, tokenizer, processor = asked
    assert isinstance(model, OuterMixin)
    assert isinstance(host_of(model), TransformersModels)
    assert processor.tokenizer is tokenizer
    assert processor.pvit_regions.config == model.region_config


def test_an_answer_is_that_of_the_processor_and_generate(asked: Loaded) -> None:
    model, tokenizer, processor = asked
    text = [{"type": "image"}, {"type": "text", "text": "what is in "}, {"type": "region", "region": BOX}]
    messages = [{"role": "user", "content": [*text, {"type": "text", "text": " ?"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    batch = processor(images=[WIDE], text=[prompt], regions=[[BOX]], return_tensors="pt")
    ids = model.generate(**batch, max_new_tokens=4, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert answers(asked, MIXED[:1]) == [tokenizer.decode(ids, skip_special_tokens=True).strip()]


def test_region_modules_and_their_base_merge(asked: Loaded, stock: Path, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(asked[0], tmp_path / "regions", base=str(stock))
    merge_checkpoint(str(tmp_path / "regions"), str(tmp_path / "merged"))
    assert answers(load(tmp_path / "merged")) == answers(asked)


def test_an_adapter_is_merged_and_a_wrapped_model_is_asked(with_regions: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer, processor = load(with_regions)
    torch.manual_seed(2)
    before, layers = answers((model, tokenizer, processor)), r".*language_model.*(v|o)_proj"
    wrapped = get_peft_model(model, LoraConfig(lora_alpha=80, target_modules=layers, init_lora_weights=False)).eval()
    found = answers((wrapped, tokenizer, processor))
    assert found != before
    wrapped.save_pretrained(tmp_path)
    loaded = load(tmp_path, base=str(with_regions))
    with torch.no_grad():
        for name, value in wrapped.merge_and_unload().state_dict().items():
            torch.testing.assert_close(loaded[0].state_dict()[name], value)
    assert answers(loaded) == found


def test_the_command_line_asks(asked: Loaded, stock: Path, tmp_path: Path, capsys: Any) -> None:
    pvit_ext.save_region_modules(asked[0], tmp_path, base=str(stock))
    WIDE.save(tmp_path / "wide.png")
    words = ["ask", "what is in <region> ?", "--image", str(tmp_path / "wide.png"), "--box", "10", "20", "40", "50"]
    assert cli.main([*words, "--model", str(tmp_path), "--device", "cpu", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()
    assert cli.main([*words, "--model", str(tmp_path), "--device", "cpu", "--conv-version", "v1"]) == 2
    assert "processor's own chat template: leave it out" in capsys.readouterr().err


def test_the_system_prompt_comes_first(asked: Loaded) -> None:
    model, tokenizer, processor = asked
    chat = host_of(model).chat(model, tokenizer, processor, None, "yes or no")
    assert chat.prompt(MIXED[0], "q").texts[0].startswith("system : yes or no")
    plain = host_of(model).chat(model, tokenizer, processor, None, None)
    assert plain.prompt(MIXED[0], "q").texts[0].startswith("user : <image>")


def test_regions_are_painted_and_named_for_an_encoder_without_tokens(stock: Path, monkeypatch: Any) -> None:
    loaded = load(stock, region_config=RegionConfig("overlay"))
    drawn = Overlay(OverlayOptions()).paint(WIDE, [BOX.resolve(WIDE.size)])
    by_hand = Query(drawn, "what is in the object within the red rectangle ?")
    seen: list[Any] = []
    generate = type(loaded[0]).generate
    monkeypatch.setattr(
        type(loaded[0]), "generate", lambda self, **given: seen.append(given) or generate(self, **given)
    )
    assert answers(loaded, MIXED[:1]) == answers(loaded, [by_hand])
    assert torch.equal(seen[0]["input_ids"], seen[1]["input_ids"])
    assert torch.equal(seen[0]["pixel_values"], seen[1]["pixel_values"])


@pytest.fixture(scope="module")
def with_regions(asked: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regions")
    asked[0].save_pretrained(folder)
    asked[2].save_pretrained(folder)
    return folder


def test_a_template_of_llava_and_a_processor_without_one_are_refused(asked: Loaded) -> None:
    with pytest.raises(ValueError, match="conv_version='v1'"):
        answers(asked, MIXED[:1], conv_version="v1")
    bare = copy.copy(asked[2])
    bare.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        answers((asked[0], asked[1], bare), MIXED[:1])


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("config", [CHOSEN, RegionConfig("replay", encoder_options={"grid": 2})])
def test_swap_writes_what_attach_makes(
    stock: Path, with_regions: Path, before: bool, config: RegionConfig, tmp_path: Path
) -> None:
    folder = with_regions if before else stock
    torch.manual_seed(3)
    swap_encoder(folder, config, tmp_path / "out")
    model, _, processor = load(folder)
    torch.manual_seed(3)
    pvit_ext.attach(model, config, str(folder), processor=processor)
    swapped = load(tmp_path / "out")
    state, wanted = swapped[0].state_dict(), model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())
    assert swapped[0].region_config == swapped[2].pvit_regions.config == model.region_config
    assert answers(swapped) == answers((model, processor.tokenizer, processor))
    assert read_json(tmp_path / "out" / "config.json")[CONFIG_KEY]["encoder"] == config.encoder


def test_swap_refuses_a_model_without_a_row_for_the_token(tmp_path: Path) -> None:
    model, processor = ZOO["llava"](rows=len(ZOO["llava"]()[1].tokenizer))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "full")
    with pytest.raises(ValueError, match=r"none for <region>: load it, .*attach adds a row"):
        swap_encoder(tmp_path / "full", CHOSEN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NO_SYSTEM = "{% for m in messages if m['role'] != 'system' %}{{ m['content'][0]['text'] }}{% endfor %}"
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}?"


@pytest.mark.parametrize(("template", "why"), [(NO_SYSTEM, "prompt: leave"), (REFUSES, r"prompt \(no system role\): ")])
def test_a_template_without_a_place_for_a_system_prompt(asked: Loaded, template: str, why: str) -> None:
    model, tokenizer, processor = asked
    other = copy.copy(processor)
    other.chat_template = template
    with pytest.raises(ValueError, match=f"has no place for a system {why}"):
        pvit_ext.ask(model, tokenizer, other, MIXED[:1], system="Be brief.")


def test_a_processor_of_other_region_modules_is_refused(asked: Loaded) -> None:
    model, tokenizer, processor = asked
    other = copy.copy(processor)
    other.pvit_regions = dataclasses.replace(processor.pvit_regions, config=RegionConfig("replay"))
    with pytest.raises(ValueError, match="is for the region encoder 'replay', the model has 'osprey'"):
        pvit_ext.ask(model, tokenizer, other, MIXED[:1])
    other.pvit_regions = None
    with pytest.raises(ValueError, match="a processor that knows no region encoder, the model has 'osprey'"):
        pvit_ext.ask(model, tokenizer, other, MIXED[:1])
