"""The registry of families, and that the tiny models of the tests run."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from pvit_ext.hosts.transformers.families import FAMILIES, REFUSED, family_of
from tests.hosts.transformers.zoo import ZOO, prompt


@pytest.mark.parametrize("name", ZOO)
def test_tiny_models_answer(name: str) -> None:
    model, processor = ZOO[name]()
    texts = [prompt(processor, "what is in the"), prompt(processor, "where is a cat and a dog ?")]
    images = [Image.new("RGB", (97, 60), "red"), Image.new("RGB", (41, 90), "blue")]
    batch = processor(images=images, text=texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize("kind", FAMILIES)
def test_known_types_have_a_family(kind: str) -> None:
    model_type, _, tower = kind.partition("/")
    config: Any = SimpleNamespace(model_type=model_type, vision_config=SimpleNamespace(model_type=tower))
    assert family_of(config) is FAMILIES[kind]


@pytest.mark.parametrize("kind", [*REFUSED, "bert"])
def test_other_types_are_refused_with_the_known_ones(kind: str) -> None:
    with pytest.raises(ValueError, match=f"{kind!r} take no regions.*Known types: .*llava") as caught:
        family_of(SimpleNamespace(model_type=kind))
    assert REFUSED.get(kind, "") in str(caught.value)


def test_tower_config_speaks_clip() -> None:
    model, _ = ZOO["llava"]()
    tower = family_of(model.config).tower_config(model.config)
    assert (tower.hidden_size, tower.num_hidden_layers, tower.patch_size, tower.image_size) == (32, 3, 7, 28)
    assert family_of(model.config).select_layer(model.config) == -2
    assert family_of(model.config).tower(model.model) is model.model.vision_tower
