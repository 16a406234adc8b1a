"""A record is asked as it is trained: an item of the dataset begins with the ids of the prompt of its question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llava import conversation as llava_conversation
from PIL import Image

import pvit_ext
from pvit_ext import RegionConfig
from pvit_ext.hosts.find import host_of
from pvit_ext.hosts.llava.tokenizer import with_original_ids
from pvit_ext.inference.questions import read_questions
from tests.training.records import make_dataset

FIRST = ("<image>\nwhat is in <region> ?", "a red dog")
CONVERSATIONS: dict[str, tuple[str, ...]] = {
    "first": FIRST,
    "last": ("what is in <region> ?\n<image>", "a red dog"),
    "within": ("what <image> is in <region> ?", "a red dog"),
    "without a line": ("<image> what is in <region> ?", "a red dog"),
    "blanks": ("<image>\n  what is in <region> ? \n", "a red dog"),
    "two turns": (*FIRST, "which is larger ?", "the dog"),
    "second turn": ("which ?", "a dog", "what is in <region> ?\n<image>", "a red dog"),
    "blanks behind an answer": (FIRST[0], " a red dog \n", "which ?", "the dog"),
    "a region in an answer": ("<image>\nwhat ?", "a dog <region> .", "which ?", "the dog"),
    "two images": ("<image>\n<image>\nwhat is in <region> ?", "a red dog"),
    "two images within": ("what <image>\nis in <region> or\n<image> ?", "a red dog", "which ?", "the dog"),
    "text": ("where is a cat ?", "no cat"),
}


def write(folder: Path, conversations: dict[str, tuple[str, ...]] = CONVERSATIONS) -> Path:
    """A data file with a record for each conversation."""
    records: list[dict[str, Any]] = []
    Image.new("RGB", (90, 60), (200, 30, 30)).save(folder / "a.png")
    for name, turns in conversations.items():
        said = [{"from": ("human", "gpt")[number % 2], "value": turn} for number, turn in enumerate(turns)]
        images = sum(turn.count("<image>") for turn in turns)
        shown = {"image": ["a.png"] * images if images > 1 else "a.png", "regions": [[5, 5, 40, 40]]} if images else {}
        records.append({"id": name, "conversations": said, **shown})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def compare(dataset: Any, chat: Any, path: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Ids as trained, up to the length of those asked, and as asked, where these differ."""
    questions, bad = read_questions(path, path.parent)
    assert not bad
    different = {}
    for number, question in enumerate(questions):
        query = question.query()
        batch = chat.batch([query], [chat.prompt(query, question.id)])
        asked = batch["input_ids" if "input_ids" in batch else "inputs"].flatten().tolist()
        trained = dataset[number]["input_ids"].flatten().tolist()
        assert len(trained) > len(asked)
        if trained[: len(asked)] != asked:
            different[question.id] = (trained[: len(asked)], asked)
    return different


@pytest.mark.parametrize(("version", "marked"), [("v1", False), ("v1", True), ("v1_mmtag", False)])
def test_llava(
    version: str, marked: bool, llava_checkpoint: Path, tmp_path: Path, template: None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates[version])
    config = RegionConfig("osprey", encoder_options={"layers": [-2]})
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=config, device="cpu"
    )
    model.config.mm_use_im_start_end = marked
    path = write(tmp_path)
    chat = host_of(model).chat(model, tokenizer, processor, version, None)
    dataset = make_dataset(llava_checkpoint, path, mm_use_im_start_end=marked)
    dataset.tokenizer = with_original_ids(dataset.tokenizer)
    assert not compare(dataset, chat, path)
