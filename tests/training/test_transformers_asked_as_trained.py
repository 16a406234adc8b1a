"""On models of transformers, too, a record is asked as it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, pre_tokenizers

from pvit_ext.data.records import load_records
from pvit_ext.evaluation.task import TaskOptions
from pvit_ext.evaluation.tasks.own import Own
from pvit_ext.hosts.find import host_of
from pvit_ext.training.held_out import query_of
from pvit_ext.training.tracking import Sample
from tests.training.test_asked_as_trained import CONVERSATIONS, compare, write
from tests.training.test_transformers_host import dataset_of, with_regions

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


def with_lines(template: str) -> tuple[Any, Any]:
    """(model, processor) of a tiny LLaVA whose tokenizer keeps line breaks and blanks."""
    model, processor = with_regions("llava")
    pieces = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+|\s"), behavior="isolated")
    processor.tokenizer.backend_tokenizer.pre_tokenizer = pieces
    processor.tokenizer.add_tokens(["\n", " "])
    processor.chat_template = template
    return model, processor


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


def test_a_tokenizer_without_an_end(tmp_path: Path) -> None:
    """Nothing stands behind an earlier answer that is asked about; such an answer is not trained."""
    model, processor = with_lines(LLAVA_HF)
    processor.tokenizer.eos_token = None
    path = write(tmp_path, {"two turns": CONVERSATIONS["two turns"]})
    query = Sample.of(load_records(str(path), str(tmp_path))[0]).query
    prompt = host_of(model).chat(model, processor.tokenizer, processor, None, None).prompt(query, "two turns")
    assert "a red dog USER: which is larger" in prompt.texts[0]
    with pytest.raises(ValueError, match=r"the tokenizer has no eos_token: .* set tokenizer\.eos_token"):
        dataset_of(path, processor)[0]


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
