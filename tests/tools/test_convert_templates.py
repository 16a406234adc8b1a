"""Which of LLaVA's conversation templates a converted checkpoint is asked with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.tools.convert.processor_files import TEMPLATES
from pvit_ext.tools.convert.template import conv_version_of
from pvit_ext.tools.convert.to_llava import to_llava_checkpoint
from pvit_ext.tools.convert.to_transformers import to_transformers
from tests.hosts.transformers import zoo

LLAVA_HF = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] %}"
    "{{ '<image>\n' if c['type'] == 'image' else c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""As llava-hf's LLaVA 1.5 asks: no system prompt."""


def write_template(folder: Path, template: str, name: str = "chat_template.jinja") -> Path:
    words = zoo.tokenizer(["<|im_start|>", "<|im_end|>"])
    words.save_pretrained(folder)
    text = template if name.endswith("jinja") else json.dumps({"chat_template": template})
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
@pytest.mark.parametrize(
    ("kind", "name"), [("llava_llama", "v1"), ("llava_mistral", "mistral_instruct"), ("chatml", "chatml_direct")]
)
def test_a_chat_template_of_llavas_gets_its_name(
    kind: str, name: str, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_template(tmp_path, TEMPLATES[kind], file)
    config = folder / "tokenizer_config.json"
    assert conv_version_of(folder, "llava_llama", {"conv_version": None}, config) == name
    assert conv_version_of(folder, "llava_llama", {"conv_version": "v1"}, config) == name
    assert not caplog.records
    assert conv_version_of(folder, "llava_llama", None, config) == (name if name == "v1" else None)
    assert (f"--conv-version {name} (conv_version=), else it is asked with v1" in caplog.text) == (name != "v1")


@pytest.mark.parametrize("regions", [None, {"conv_version": None}])
def test_a_chat_template_that_llavas_code_has_not_is_shown(
    regions: dict[str, Any] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_template(tmp_path, LLAVA_HF)
    assert conv_version_of(folder, "llava_llama", regions, folder / "tokenizer_config.json") is None
    assert "'USER: <image>\\nWhat is this? ASSISTANT: A dog.</s> USER: And where? ASSISTANT:'" in caplog.text
    assert "LLaVA's v1, which writes \"A chat between a curious user" in caplog.text
    assert "--conv-version NAME" in caplog.text


MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
"""As Mistral's own, which joins texts: a list of parts is a TypeError."""
REFUSES = "{{ raise_exception('no images here') }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (MISTRAL, r"writes '\[INST\] <image>\\nWhat is this\? \[/INST\]A dog\.</s>\[INST\] And where\? \[/INST\]'"),
        (MISTRAL.replace("m['content']", "m['content'] | string"), r"writes '\[INST\] <image>\\nWhat is this\?"),
        (REFUSES, "which refuses the conversation"),
    ],
)
def test_a_chat_template_for_text_is_compared_by_its_text(
    template: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_template(tmp_path, template)
    assert conv_version_of(folder, "llava_llama", {"conv_version": None}, folder / "tokenizer_config.json") is None
    assert re.search(said, caplog.text), caplog.text


def test_without_a_chat_template_there_is_nothing_to_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zoo.tokenizer([]).save_pretrained(tmp_path)
    assert conv_version_of(tmp_path, "llava_llama", {"conv_version": None}, tmp_path / "tokenizer_config.json") is None
    assert not caplog.records


@pytest.mark.parametrize("edited", [False, True])
def test_a_template_that_was_edited_after_converting_is_told_on_the_way_back(
    edited: bool, llava_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to_transformers(llava_checkpoint, there := tmp_path / "there")
    if edited:
        (there / "chat_template.jinja").write_text(TEMPLATES["llava_mistral"])
    to_llava_checkpoint(there, tmp_path / "back")
    assert ("--conv-version mistral_instruct (conv_version=), else it is asked with v1" in caplog.text) == edited
