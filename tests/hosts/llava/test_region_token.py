"""Token ids of prompts with regions, against raw SentencePiece and LLaVA's own functions."""

from __future__ import annotations

import importlib
import json
import pickle
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.prompt import REGION_TOKEN_INDEX

WORDS = [
    "what",
    "is",
    "the",
    "animal",
    "doing",
    "in",
    "they",
    "who",
    "more",
    "to",
    "win",
    "this",
    "image",
    "a",
    "dog",
    "cat",
    "person",
    "yes",
    "no",
    "It",
    "and",
    "with",
    "of",
]


# Token ids


def train_tokenizer(folder: Path) -> Any:
    """A tiny LLaMA tokenizer with the trait that LLaVA's -1 counts on: USER is one piece, ▁USER two."""
    sentencepiece, rng = pytest.importorskip("sentencepiece"), random.Random(0)
    lines = []
    for _ in range(1500):
        lines.append(" ".join(rng.choices(WORDS, k=12)) + rng.choice([".", "?", ", (ok)"]))
        lines.append(f"xUSER: {rng.choice(WORDS)} ASSISTANT: {rng.choice(WORDS)}")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=500, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return importlib.import_module("transformers").AutoTokenizer.from_pretrained(folder, use_fast=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    pytest.importorskip("llava")
    tokenizer = train_tokenizer(folder)
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    return ["<region>" if token == REGION_TOKEN_INDEX else tokenizer.convert_ids_to_tokens(token) for token in ids]


def sentencepiece_pieces(folder: Path, text: str) -> list[str]:
    """Oracle: raw SentencePiece with a word in the place of ``<region>`` that cannot merge with its neighbours."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    word = ["<0xE2>", "<0x80>", "<0xA1>"]  # the bytes of the dagger, which is in no training text
    found = model.encode(text.replace("<region>", "\u2021"), out_type=str)
    result: list[str] = []
    for piece in found:
        result.append(piece)
        if result[-3:] == word:
            result[-3:] = ["<region>"]
    return result


@given(
    st.lists(st.sampled_from([*WORDS, "<region>", "(<region>)", "<region>,", "<region><region>", "\n<region>", "dog?"]))
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_text_around_a_region_is_tokenized_as_around_a_word(folder: Path, tokenizer: Any, words: list[str]) -> None:
    text = " ".join(["It", *words])
    ids = tokenizer_region_token(text, tokenizer)
    assert pieces(tokenizer, ids) == ["<s>", *sentencepiece_pieces(folder, text)]
    assert "".join(pieces(tokenizer, ids)[1:]).replace("<0x0A>", "\n") == "\u2581" + text.replace(" ", "\u2581")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<region>", ["<s>", "<region>"]),
        ("<region> is", ["<s>", "<region>", "▁is"]),
        ("is<region>is", ["<s>", "▁is", "<region>", "is"]),
        ("is <region> is", ["<s>", "▁is", "▁", "<region>", "▁is"]),
        ("is</s><region> is", ["<s>", "▁is", "</s>", "<region>", "▁is"]),
    ],
)
def test_no_space_is_lost_or_added(tokenizer: Any, text: str, expected: list[str]) -> None:
    assert pieces(tokenizer, tokenizer_region_token(text, tokenizer)) == expected


def test_prompts_without_region_equal_llava(tokenizer: Any) -> None:
    from llava.mm_utils import tokenizer_image_token

    for text in [
        "",
        "what is",
        "<image>\nwhat is",
        "is <image> and <image>",
        "<image>",
        "</s>USER: is",
        "a <Region> b",
    ]:
        assert tokenizer_region_token(text, tokenizer) == tokenizer_image_token(text, tokenizer)
        assert tokenizer_region_token(text, tokenizer, -7) == tokenizer_image_token(text, tokenizer, -7)


def test_images_and_regions_mix(tokenizer: Any) -> None:
    ids = tokenizer_region_token("<image>\nis <region>, <image> is <region>?", tokenizer, return_tensors="pt")
    assert ids.dtype == torch.long
    assert ids.tolist() == tokenizer_region_token("<image>\nis <region>, <image> is <region>?", tokenizer)
    assert [token for token in ids.tolist() if token < 0] == [-200, -300, -200, -300]
    assert int((ids == tokenizer.bos_token_id).sum()) == 1
    with pytest.raises(ValueError, match="Unsupported tensor type"):
        tokenizer_region_token("<region>", tokenizer, return_tensors="np")


def test_the_users_tokenizer_is_untouched_and_may_change_later(folder: Path) -> None:
    pytest.importorskip("llava")
    tokenizer = train_tokenizer(folder)
    before = tokenizer("is <region> is").input_ids, len(tokenizer), pickle.dumps(sorted(tokenizer.get_vocab().items()))
    tokenizer_region_token("is <region> is", tokenizer)
    after = tokenizer("is <region> is").input_ids, len(tokenizer), pickle.dumps(sorted(tokenizer.get_vocab().items()))
    assert before == after
    tokenizer.add_tokens(["<im_start>"], special_tokens=True)  # LLaVA does this after construction
    ids = tokenizer_region_token("<im_start><region>", tokenizer)
    assert ids == [tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("<im_start>"), REGION_TOKEN_INDEX]


@pytest.fixture
def llava_train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """LLaVA's training module with our tokenization and its v1 template."""
    pytest.importorskip("llava")
    compat.layernorm_names()
    train = importlib.import_module("llava.train.train")
    monkeypatch.setattr(train, "tokenizer_image_token", tokenizer_region_token)
    monkeypatch.setattr(train.conversation_lib, "default_conversation", train.conversation_lib.conv_templates["v1"])
    return train


def conversation(rng: random.Random, turns: int) -> list[dict[str, str]]:
    def words() -> str:
        chosen = rng.choices(
            [*WORDS, "<region>", "(<region>),", "<region><region>", "is\n<region>"], k=rng.randint(1, 6)
        )
        return " ".join(chosen)

    values = [("gpt" if turn % 2 else "human", words()) for turn in range(2 * turns)]
    values[0] = ("human", "<image>\n" + values[0][1])
    return [{"from": role, "value": value.strip()} for role, value in values]


def test_v1_lengths_match_on_multi_turn_conversations(
    llava_train: ModuleType, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    for turns in (1, 2, 3, 5) * 8:
        turn_list = conversation(rng, turns)
        result = llava_train.preprocess_v1([turn_list], tokenizer, has_image=True)
        ids, labels = result["input_ids"][0], result["labels"][0]
        wanted = sum(turn["value"].count("<region>") for turn in turn_list)
        assert int((ids == REGION_TOKEN_INDEX).sum()) == wanted
        answers = "".join(pieces(tokenizer, labels[labels != -100].tolist())).replace("<0x0A>", "\n")
        assert answers == "".join("\u2581" + t["value"].replace(" ", "\u2581") + "</s>" for t in turn_list[1::2])
    assert "mismatch" not in capsys.readouterr().out


def test_plain_keeps_the_regions_of_the_answer(llava_train: ModuleType, tokenizer: Any) -> None:
    llava_train.conversation_lib.default_conversation = llava_train.conversation_lib.conv_templates["plain"]
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "the cat in <region>, who is <region>"}]
    result = llava_train.preprocess_plain([turns], tokenizer)
    assert pieces(tokenizer, result["labels"][0][2:].tolist()) == pieces(
        tokenizer, tokenizer_region_token("the cat in <region>, who is <region>\n", tokenizer)[1:]
    )
    assert result["labels"][0][:2].tolist() == [-100, -100]
