"""``--attn_implementation`` reaches the language model, on both hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training import runs


@pytest.fixture(params=["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """What trains a model of a host, a checkpoint, and records."""
    return runs.of_host(request, tmp_path)


def test_the_model_trains_with_the_attention_that_the_flag_names(
    place: tuple[Any, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, checkpoint, data = place
    words = given.flags(checkpoint, data, tmp_path / "out", stage="align", max_steps=1, attn_implementation="eager")
    model = given.run(monkeypatch, words).model
    assert getattr(model.config, "text_config", model.config)._attn_implementation == "eager"


def test_an_attention_that_transformers_does_not_know_is_refused(
    place: tuple[Any, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, checkpoint, data = place
    words = given.flags(checkpoint, data, tmp_path / "out", stage="align", attn_implementation="fast")
    with pytest.raises(ValueError, match=r"fast.*(?s:.)*eager"):
        given.run(monkeypatch, words)


def test_an_mpt_has_an_attention_of_its_own(tmp_path: Path) -> None:
    runs.compat.prepare_training()
    from pvit_ext.hosts.llava.training import load_language_model

    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llava_mpt", "architectures": ["LlavaMptForCausalLM"]})
    )
    with pytest.raises(ValueError, match=r"MPT, whose attention is its own: drop --attn_implementation"):
        load_language_model(str(tmp_path), Arguments(), "eager")


class Arguments:
    """As far as it is read."""

    cache_dir = None
