"""Conversation templates: which one is asked and trained with, and that each trains on the answers or is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import pvit_ext
from pvit_ext import Query
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.batch import build_prompt
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.hosts.llava.tokenizer import load_tokenizer
from tests.tiny import build_llava, build_neox_tokenizer, build_smol_tokenizer, build_tokenizer

compat.prepare_training()

from llava import conversation as llava_conversation  # noqa: E402
from llava.mm_utils import tokenizer_image_token  # noqa: E402
from llava.train import train as llava_train  # noqa: E402

from pvit_ext.hosts.llava.patching import PATCH_POINTS, patched  # noqa: E402
from pvit_ext.hosts.llava.template_check import check_template, follow_checkpoint  # noqa: E402
from pvit_ext.training.llava.patched_tree import TRAIN_POINTS  # noqa: E402
from tests.training.records import record  # noqa: E402
from tests.training.runs import flags, run  # noqa: E402

TEMPLATES = llava_conversation.conv_templates
CHATML = "<|im_start|>user\n<image>\nWhat is in it?<|im_end|><|im_start|>assistant\na cat<|im_end|>"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By what builds their folder, as training gets them."""
    found = {}
    for build in (build_tokenizer, build_neox_tokenizer, build_smol_tokenizer):
        folder = tmp_path_factory.mktemp("tokenizer")
        build(folder)
        found[build.__name__] = load_tokenizer(str(folder), use_fast=build is not build_tokenizer)
        found[build.__name__].pad_token = found[build.__name__].unk_token
    return found


# Tokenization


def text_of(ids: list[int], tokenizer: Any) -> str:
    parts = [{-200: "<image>", -300: "<region>"}.get(i) or tokenizer.decode([i]) for i in ids]
    return "".join(parts)


@pytest.mark.parametrize("prompt", [CHATML, CHATML.replace("in it", "in <region>"), CHATML + CHATML, "<image>" * 2])
def test_no_text_is_dropped_where_the_prompt_begins_with_bos(tokenizers: dict[str, Any], prompt: str) -> None:
    tokenizer = tokenizers["build_smol_tokenizer"]
    assert tokenizer.bos_token == "<|im_start|>"
    assert text_of(tokenizer_region_token(prompt, tokenizer), tokenizer) == prompt
    if "<image>\n" in prompt and "<region>" not in prompt:
        assert text_of(tokenizer_image_token(prompt, tokenizer), tokenizer) != prompt  # LLaVA's


@pytest.mark.parametrize("build", ["build_tokenizer", "build_neox_tokenizer", "build_smol_tokenizer"])
@pytest.mark.parametrize(
    "prompt", ["", "<image>", "<image>\nRed?", "USER: <image>\nRed? <image> blue", "Red?", " <image> ", "<s> <image>a"]
)
def test_ids_are_llavas_where_it_drops_nothing(tokenizers: dict[str, Any], build: str, prompt: str) -> None:
    tokenizer = tokenizers[build]
    assert tokenizer_region_token(prompt, tokenizer) == tokenizer_image_token(prompt, tokenizer)
    tensor = tokenizer_region_token(prompt or "a", tokenizer, return_tensors="pt")
    assert tensor.equal(tokenizer_image_token(prompt or "a", tokenizer, return_tensors="pt"))
    with pytest.raises(ValueError, match="Unsupported tensor type: np"):
        tokenizer_region_token(prompt, tokenizer, return_tensors="np")


# Which template trains on the answers

CHATML_NAMES = {"chatml_direct", "mistral_direct", "mpt"}
PLAIN = {"plain", "v0_plain"}
WORKING = {
    "build_tokenizer": set(TEMPLATES) - {"default", "v0", "llava_v0", "v0_mmtag", "mistral_instruct"},
    "build_neox_tokenizer": CHATML_NAMES | PLAIN,
    "build_smol_tokenizer": CHATML_NAMES | PLAIN,
}
RECORDS = [record(0), record(1, "What is this?", (), image=False), record(2)]
RECORDS[2]["conversations"] *= 2


@pytest.mark.parametrize("build", WORKING)
def test_each_template_trains_on_the_answers_or_is_refused(
    tokenizers: dict[str, Any], build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizers[build]
    with patched((*PATCH_POINTS, *TRAIN_POINTS)):
        for name, template in TEMPLATES.items():
            monkeypatch.setattr(llava_conversation, "default_conversation", template)
            if name in WORKING[build]:
                check_template(tokenizer, RECORDS, llava_train.preprocess)
            else:
                with pytest.raises(ValueError, match=f"with {type(tokenizer).__name__}: ") as raised:
                    check_template(tokenizer, RECORDS, llava_train.preprocess)
                advised = set(str(raised.value).rpartition(": ")[2].split(", "))
                assert advised == WORKING[build] - {"plain", "v0_plain"}  # which drop the questions
            assert llava_conversation.default_conversation is template


def test_a_short_maximum_length_is_no_fault_of_the_template(
    tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaVA cuts text-only samples off there; records that this hits are named one by one."""
    tokenizer = tokenizers["build_tokenizer"]
    monkeypatch.setattr(tokenizer, "model_max_length", 20)
    monkeypatch.setattr(llava_conversation, "default_conversation", TEMPLATES["v1"])
    with patched((*PATCH_POINTS, *TRAIN_POINTS)):
        check_template(tokenizer, RECORDS, llava_train.preprocess)
    assert tokenizer.model_max_length == 20


def test_what_goes_wrong_is_said(tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizers["build_smol_tokenizer"]
    with patched((*PATCH_POINTS, *TRAIN_POINTS)):
        monkeypatch.setattr(llava_conversation, "default_conversation", TEMPLATES["v1"])
        with pytest.raises(ValueError, match=r"^conversation template v1 .*trains on nothing\. .*: chatml_direct,"):
            check_template(tokenizer, RECORDS[1:2], llava_train.preprocess)
        with pytest.raises(ValueError, match=r"LLaVA's masking of 2 turn\(s\) ends in AttributeError"):
            check_template(tokenizer, RECORDS[2:], llava_train.preprocess)
        monkeypatch.setattr(llava_conversation, "default_conversation", TEMPLATES["llava_v0"])
        with pytest.raises(ValueError, match=r"template llava_v0 .*'a red fish'\] LLaVA trains on \['##'"):
            check_template(tokenizer, RECORDS, llava_train.preprocess)


def test_only_kinds_of_records_that_are_there_count(tokenizers: dict[str, Any], monkeypatch: Any) -> None:
    """The tiny vocabulary has no token that LLaVA's second round of this template counts on."""
    tokenizer = tokenizers["build_tokenizer"]
    monkeypatch.setattr(llava_conversation, "default_conversation", TEMPLATES["mistral_instruct"])
    with patched((*PATCH_POINTS, *TRAIN_POINTS)):
        check_template(tokenizer, RECORDS[:2], llava_train.preprocess)
        with pytest.raises(ValueError, match="mistral_instruct"):
            check_template(tokenizer, RECORDS, llava_train.preprocess)


# Which one is taken


def config_of(conv_version: str | None, model_type: str = "llava_llama") -> Any:
    return SimpleNamespace(
        region_config=SimpleNamespace(conv_version=conv_version), config=SimpleNamespace(model_type=model_type)
    )


@pytest.mark.parametrize(
    ("own", "model_type", "expected"),
    [
        (None, "llava_llama", "v1"),
        (None, "llava_mistral", "mistral_instruct"),
        ("{{ '<|im_start|>' + role }}", "llava_llama", "chatml_direct"),
        ("{{ '<|im_start|>' + role }}", "llava_mpt", "mpt"),
        ("[INST] {{ content }} [/INST]", "llava_llama", "mistral_instruct"),
        ("[INST] <<SYS>>{{ content }}", "llava_llama", "llava_llama_2"),
        ({"default": "<|im_start|>"}, "llava_llama", "chatml_direct"),
        ("USER: {{ content }} ASSISTANT:", "llava_llama", "v1"),
    ],
)
def test_default_is_like_the_tokenizers_own(own: Any, model_type: str, expected: str) -> None:
    tokenizer = SimpleNamespace(chat_template=own)
    assert conversation(config_of(None, model_type), tokenizer=tokenizer) is TEMPLATES[expected]
    assert conversation(config_of("llava_v1", model_type), tokenizer=tokenizer) is TEMPLATES["llava_v1"]
    assert conversation(config_of(None, model_type), "plain", tokenizer=tokenizer) is TEMPLATES["plain"]


@pytest.mark.parametrize("stored", ["v0", "v0.5", "my_own"])
def test_a_name_for_which_llava_trains_vicuna_is_asked_with_that_and_said(
    stored: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert conversation(config_of(stored)) is TEMPLATES["vicuna_v1"]
    assert f"--version {stored}, for which LLaVA trains on the template vicuna_v1" in caplog.text


@pytest.mark.parametrize(
    ("stored", "version", "expected"),
    [
        (None, "v0", "chatml_direct"),
        ("plain", "v0", "chatml_direct"),
        ("llava_v1", "v0", "llava_v1"),
        ("llava_v1", "plain", None),
        (None, "v1", None),
    ],
)
def test_training_without_a_name_follows_checkpoint_and_tokenizer(
    tokenizers: dict[str, Any], stored: str | None, version: str, expected: str | None, monkeypatch: Any
) -> None:
    before = llava_conversation.default_conversation
    monkeypatch.setattr(llava_conversation, "default_conversation", before)
    follow_checkpoint(version, config_of(stored), tokenizers["build_smol_tokenizer"])
    assert llava_conversation.default_conversation is (before if expected is None else TEMPLATES[expected])


@pytest.mark.parametrize("family", ["llava_llama", "llava_mistral", "llava_mpt"])
def test_training_without_a_name_takes_what_ask_takes(
    family: str, tokenizers: dict[str, Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(llava_conversation, "default_conversation", TEMPLATES["vicuna_v1"])
    follow_checkpoint("v0", config_of(None, family), tokenizers["build_tokenizer"])
    assert llava_conversation.default_conversation is conversation(config_of(None, family))


# The system prompt


@pytest.fixture(scope="module")
def loaded(llava_checkpoint: Path) -> Any:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")
    return model, tokenizer, processor


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1", "Be brief. USER: Red? ASSISTANT:"),
        (
            "chatml_direct",
            "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nRed?<|im_end|><|im_start|>assistant\n",
        ),
        ("mistral_instruct", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nRed? [/INST]"),
        ("llava_v0", "Be brief.###Human: Red?###Assistant:"),
    ],
)
def test_system_prompt(loaded: Any, name: str, expected: str) -> None:
    before = TEMPLATES[name].system
    conv = conversation(loaded[0], name, "Be brief.")
    assert build_prompt(Query(None, "Red?"), conv, "q", loaded[0]).texts[0] == expected
    assert TEMPLATES[name].system == before


@pytest.mark.parametrize("name", ["v1", "v0_mmtag", "v1_mmtag"])
@pytest.mark.parametrize("earlier", [[], [("Which?", "a dog")]])
def test_a_question_is_one_text_whether_it_places_its_image_or_not(
    loaded: Any, name: str, earlier: list[tuple[str, str]]
) -> None:
    image, conv = Image.new("RGB", (60, 60)), conversation(loaded[0], name)

    def text(question: str, first: str = "") -> str:
        history = [(first + said, answer) for said, answer in earlier]
        asked = Query(image, question if history else first + question, history=history)
        return build_prompt(asked, conv, "q", loaded[0]).texts[0]

    placed = text("Red?", "<image>\n")
    assert text("Red?") == placed
    wrapped = "<Image><image></Image>" if "mmtag" in name else "<image>"
    assert placed.count("<image>") == placed.count(f": {wrapped}\n") == 1
    assert text("  Red? \n").endswith(text("Red?").partition("\n")[2].replace("Red?", "  Red? \n"))  # keeps its blanks


def test_ask_takes_template_and_system_prompt(loaded: Any) -> None:
    answers = pvit_ext.ask(*loaded, [Query(None, "Red?")], 4, conv_version="chatml_direct", system="Be brief.")
    assert len(answers) == 1
    with pytest.raises(ValueError, match="'plain' has no place for a system prompt"):
        pvit_ext.ask(*loaded, [Query(None, "Red?")], conv_version="plain", system="Be brief.")
    with pytest.raises(ValueError, match=r"unknown conversation template 'nope'; known: .*vicuna_v1"):
        pvit_ext.ask(*loaded, [Query(None, "Red?")], conv_version="nope")


# A language model of that kind


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_llava(tmp_path_factory.mktemp("smol") / "tiny", vocab_size=340)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    build_smol_tokenizer(folder)
    return folder


def test_training_refuses_and_by_default_takes_what_works(
    smol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava_conversation, "default_conversation", TEMPLATES["vicuna_v1"])
    Image.new("RGB", (60, 60)).save(tmp_path / "0.png")
    data = tmp_path / "train.json"
    data.write_text(json.dumps([record(0)] * 2))
    arguments: dict[str, Any] = {"stage": "align", "per_device_train_batch_size": 2}
    with pytest.raises(ValueError, match=r"template v1 \(--version\) .*: chatml_direct, "):
        run(monkeypatch, flags(smol, data, tmp_path / "v1", version="v1", **arguments))
    monkeypatch.setattr(llava_conversation, "default_conversation", TEMPLATES["vicuna_v1"])
    trainer = run(monkeypatch, flags(smol, data, tmp_path / "out", version="v0", **arguments))
    labels = trainer.batch_of_all["labels"][0]
    assert trainer.train_dataset.tokenizer.decode(labels[labels >= 0]).endswith("<|im_end|>")
    loaded = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")
    assert conversation(loaded[1]) is TEMPLATES["chatml_direct"]
