"""The families of vision-language models that take regions, by ``model_type``."""

from __future__ import annotations

from typing import Any

from pvit_ext.hosts.transformers.families.base import Family
from pvit_ext.hosts.transformers.families.llava import Llava

FAMILIES: dict[str, Family] = {
    "llava": Llava(),
}
"""By ``model_type``, or ``model_type/model_type of its vision tower`` where the tower decides."""

REFUSED: dict[str, str] = {
    "idefics3": "it reads its embeddings past get_input_embeddings",
    "smolvlm": "it reads its embeddings past get_input_embeddings",
    "blip": "its question former mixes the image's cells before the language model sees them",
    "blip-2": "its question former mixes the image's cells before the language model sees them",
    "instructblip": "its question former mixes the image's cells before the language model sees them",
    "kosmos-2": "its question former mixes the image's cells before the language model sees them",
    "llama4": "it has no vision tower whose cells an image's pixels can be followed to",
}


def family_of(config: Any) -> Family:
    """The family of a model.

    Args:
        config: of the model.

    Raises:
        ValueError: for a model that takes no regions, with the known ones.
    """
    kind, tower = config.model_type, getattr(getattr(config, "vision_config", None), "model_type", None)
    for key in (f"{kind}/{tower}", kind):
        if key in FAMILIES:
            return FAMILIES[key]
    known = ", ".join(sorted(FAMILIES))
    why = f": {REFUSED[kind]}" if kind in REFUSED else ""
    raise ValueError(f"models of type {kind!r} take no regions{why}. Known types: {known}")
