"""Where the ids of an answer stand in what a chat template writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pvit_ext.hosts.transformers.scored import answer_ids


class Thinking:
    """A processor whose template writes an empty thought before an answer; ids are letters."""

    def apply_chat_template(self, turns: Any, add_generation_prompt: bool = False, tokenize: bool = False) -> str:
        said = [turn["content"][0]["text"] for turn in turns]
        if add_generation_prompt:
            return f"user {said[0]}<|im_end|>assistant "
        return f"user {said[0]}<|im_end|>assistant <think>\n\n</think>\n\n{said[1]}<|im_end|>"

    def tokenizer(self, text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=[*map(ord, text)])


@pytest.mark.parametrize("answer", ["think", "a dog", "end", "|"])
def test_an_answer_stands_behind_what_the_template_writes_before_it(answer: str) -> None:
    found = answer_ids(Thinking(), "user ?<|im_end|>assistant ", answer)
    assert "".join(map(chr, found)) == f"<think>\n\n</think>\n\n{answer}"
