"""A tiny talking model of each host behind an engine, and one behind HTTP."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.engine import Batching, Engine
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST, OSPREY, make

collect_ignore: list[str] = []
if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("openai") is None:  # extras serve, generate
    of_http = ("chat", "image_loader", "known_hosts", "lion", "process", "refusals", "region_count", "times", "uploads")
    collect_ignore += [f"test_{name}.py" for name in of_http]
OTHERS = ["transformers/llava", "transformers/qwen2_vl"] if HAS_TRANSFORMERS_HOST else []
HOSTS = ["llava/llama", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


@pytest.fixture(scope="session", params=HOSTS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """What ``load_pretrained_model`` returns, of a model whose answers differ."""
    model, tokenizer, processor = make(request.param, tmp_path_factory).talking(OSPREY)
    return Loaded(tokenizer, model, processor, 2048)


@pytest.fixture(scope="module")
def engine(loaded: Loaded) -> Iterator[Engine]:
    """An engine of small batches."""
    with Engine(loaded, Batching(most=6, places=12, window=0)) as found:
        yield found
