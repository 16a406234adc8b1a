"""``ask`` asks the host of a model, whichever it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.hosts.chat import Ends
from pvit_ext.hosts.find import HOSTS, host_of
from pvit_ext.hosts.llava.host import LlavaHost
from pvit_ext.tokens.processor import RegionProcessor

PHOTO, BOX = Image.new("RGB", (40, 20)), Region.box(1, 2, 30, 15)
TOKENIZER = SimpleNamespace(pad_token_id=None)


class Parrot:
    """A model that says which sample of the batch it answers, for a host of its own."""

    region_config = None
    parrot = True

    def generate(self, ids: Any, **options: Any) -> Any:
        self.options = options
        return torch.arange(len(ids))[:, None]


class ParrotChat:
    def __init__(self, conv_version: str | None, system: str | None) -> None:
        self.head = f"{conv_version}/{system}"

    def prompt(self, query: Query, name: str) -> Any:
        return RegionProcessor().prompt([query.text], query.all_regions(name), query.image_sizes(), name)

    def batch(self, queries: Any, prompts: Any) -> dict[str, Any]:
        return {"ids": [prompt.name for prompt in prompts]}

    def ends(self) -> Ends:
        return Ends([7, 9], [])

    def answers(self, generated: Any, batch: dict[str, Any]) -> list[str]:
        return [f"{self.head}: {batch['ids'][number]}" for number in generated.flatten().tolist()]


class ParrotHost:
    def holds(self, model: Any) -> bool:
        return hasattr(model, "parrot")

    def chat(self, model: Any, tokenizer: Any, processor: Any, conv_version: Any, system: Any) -> ParrotChat:
        return ParrotChat(conv_version, system)


@pytest.fixture
def parrots() -> Any:
    HOSTS.register("parrot")(ParrotHost())
    yield
    del HOSTS["parrot"]


def test_a_registered_host_answers(parrots: Any) -> None:
    model = Parrot()
    queries = [Query(PHOTO, f"{number} <region>", [BOX]) for number in range(3)]
    answers = pvit_ext.ask(model, TOKENIZER, None, queries, batch_size=2, conv_version="v9", system="Be brief.")
    assert answers == [f"v9/Be brief.: query {number}" for number in range(3)]
    assert (model.options["eos_token_id"], model.options["pad_token_id"]) == ([7, 9], 7)


def test_a_host_is_found_by_what_the_class_offers(loaded: Any, parrots: Any) -> None:
    assert isinstance(host_of(loaded[1]), LlavaHost)
    assert isinstance(host_of(Parrot()), ParrotHost)


def test_a_model_of_no_host_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^a Linear is no model of a known host \(.*llava"):
        host_of(torch.nn.Linear(1, 1))
