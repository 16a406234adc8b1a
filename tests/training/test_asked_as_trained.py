"""A record is asked as it is trained: an item of the dataset begins with the ids of the prompt of its question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llava import conversation as llava_conversation
from tokenizers import AddedToken, Regex, pre_tokenizers

import pvit_ext
from pvit_ext import RegionConfig
from pvit_ext.data.records import load_records
from pvit_ext.evaluation.task import TaskOptions
from pvit_ext.evaluation.tasks.own import Own
from pvit_ext.hosts.find import host_of
from pvit_ext.hosts.llava.tokenizer import with_original_ids
from pvit_ext.inference.questions import read_questions
from pvit_ext.training.held_out import query_of
from pvit_ext.training.tracking import Sample
from tests.hosts.transformers.inputs import make_image
from tests.training.records import make_dataset
from tests.training.test_transformers_host import as_turns, dataset_of, with_regions

LLAVA_HF = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'][0]['text'] + ' ' }}{% else %}"
    "{{ m['role'].upper() + ': ' }}{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Like that of llava-hf's LLaVA 1.5: images come first, a line each, and nothing ends an answer."""
IN_PLACE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}{% for c in m['content'] %}"
    "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{{ '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
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
    make_image(90, 60).save(folder / "a.png")
    for name, turns in conversations.items():
        said = as_turns([(("human", "gpt")[number % 2], turn) for number, turn in enumerate(turns)])
        images = sum(turn.count("<image>") for turn in turns)
        shown = {"image": ["a.png"] * images if images > 1 else "a.png", "regions": [[5, 5, 40, 40]]} if images else {}
        records.append({"id": name, "conversations": said, **shown})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def with_lines(template: str) -> tuple[Any, Any]:
    """(model, processor) of a tiny LLaVA whose tokenizer keeps line breaks and blanks."""
    model, processor = with_regions("llava")
    pieces = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+|\s"), behavior="isolated")
    processor.tokenizer.backend_tokenizer.pre_tokenizer = pieces
    processor.tokenizer.add_tokens(["\n", " "])
    processor.chat_template = template
    return model, processor


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


@pytest.mark.parametrize("template", [LLAVA_HF, IN_PLACE], ids=["images first", "images in place"])
def test_transformers(template: str, tmp_path: Path) -> None:
    model, processor = with_lines(template)
    path = write(tmp_path)
    chat = host_of(model).chat(model, processor.tokenizer, processor, None, None)
    assert not compare(dataset_of(path, processor), chat, path)


def test_an_end_that_only_the_vocabulary_calls_special(tmp_path: Path) -> None:
    """As Gemma's <end_of_turn> and LLaMA 3's <|eot_id|>, which are none of the tokenizer's named tokens."""
    model, processor = with_lines(IN_PLACE.replace("</s>", "<end>"))
    processor.tokenizer.add_tokens([AddedToken("<end>", special=True)])
    assert "<end>" not in processor.tokenizer.all_special_tokens
    path = write(tmp_path, {"two turns": CONVERSATIONS["two turns"]})
    chat = host_of(model).chat(model, processor.tokenizer, processor, None, None)
    assert not compare(dataset_of(path, processor), chat, path)
    ids = dataset_of(path, processor)[0]["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<end>")) == 4
    assert processor.tokenizer.eos_token_id not in ids


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


@pytest.mark.parametrize("name", ["last", "blanks"])
def test_the_validation_table_asks_so_too(name: str, tmp_path: Path) -> None:
    model, processor = with_lines(IN_PLACE)
    path = write(tmp_path, {name: CONVERSATIONS[name]})
    chat = host_of(model).chat(model, processor.tokenizer, processor, None, None)
    query = Sample.of(load_records(str(path), str(tmp_path))[0]).query
    asked = chat.batch([query], [chat.prompt(query, name)])["input_ids"][0].tolist()
    assert dataset_of(path, processor)[0]["input_ids"][0, : len(asked)].tolist() == asked


@pytest.mark.parametrize("name", ["first", "last", "blanks", "without a line"])
def test_an_own_set_asks_so_too(name: str, tmp_path: Path) -> None:
    model, processor = with_lines(IN_PLACE)
    path = write(tmp_path, {name: CONVERSATIONS[name]})
    chat = host_of(model).chat(model, processor.tokenizer, processor, None, None)
    (sample,) = Own(TaskOptions(path, str(tmp_path))).load()
    query = query_of(sample)
    asked = chat.batch([query], [chat.prompt(query, name)])["input_ids"][0].tolist()
    assert dataset_of(path, processor)[0]["input_ids"][0, : len(asked)].tolist() == asked
