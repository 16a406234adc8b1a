"""The tokenizer's special tokens, with which tags are compared."""

from __future__ import annotations

from typing import Any

import pytest

from pvit_ext import Query
from pvit_ext.inference.session import Session
from tests.hosts.test_tags import HOSTS, TAGGED, TALL, WIDE, make_host


@pytest.mark.parametrize("name", HOSTS)
def test_the_special_tokens_are_looked_up_once_a_conversation(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take 20 ms of a large vocabulary, and every tag with a bracket is compared with them."""
    parts = make_host(name, tmp_path_factory).attached(TAGGED)
    reads: list[Any] = []
    kind = type(parts.tokenizer)
    stock = kind.added_tokens_decoder.fget

    def counted(tokenizer: Any) -> Any:
        reads.append(tokenizer)
        return stock(tokenizer)

    monkeypatch.setattr(kind, "added_tokens_decoder", property(counted))
    asked = [Query(image, "what is it ?", tags=["<b>cat</b>", "3 < 4"]) for image in (WIDE, TALL)]
    Session(*parts).prompts(asked)
    assert len(reads) == 1
