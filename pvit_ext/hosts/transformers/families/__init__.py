"""The families of vision-language models that take regions, by ``model_type``."""

from __future__ import annotations

from typing import Any

from pvit_ext.hosts.transformers.families.base import Family
from pvit_ext.hosts.transformers.families.internvl import InternVL
from pvit_ext.hosts.transformers.families.llava import Gemma3, Llava, PaliGemma
from pvit_ext.hosts.transformers.families.merged import Glm4v, Merged, Qwen2, Qwen25
from pvit_ext.hosts.transformers.families.packed import Packed
from pvit_ext.hosts.transformers.families.tiles import LlavaNext, LlavaOnevision

FAMILIES: dict[str, Family] = {
    "gemma3": Gemma3(),
    "glm4v": Glm4v(),
    "internvl": InternVL(),
    "llava": Llava(),
    "llava/pixtral": Packed(),
    "llava_next": LlavaNext(),
    "llava_onevision": LlavaOnevision(),
    "mistral3": Packed(),
    "paligemma": PaliGemma(),
    "qwen2_5_vl": Qwen25(),
    "qwen2_vl": Qwen2(),
    "qwen3_vl": Merged(),
    "vipllava": Llava(),
}
"""Families by ``model_type``, or ``model_type/model_type of its vision tower`` where the tower decides."""

_QWEN2 = "Qwen2VLProcessor", "Qwen2_5_VLProcessor"
PROCESSORS: dict[str, tuple[str, ...]] = {
    "gemma3": ("Gemma3Processor",),
    "glm4v": ("Glm4vProcessor", "Glm46VProcessor"),
    "internvl": ("InternVLProcessor",),
    "llava": ("LlavaProcessor",),
    "llava/pixtral": ("PixtralProcessor",),
    "llava_next": ("LlavaNextProcessor",),
    "llava_onevision": ("LlavaOnevisionProcessor",),
    "mistral3": ("PixtralProcessor",),
    "paligemma": ("PaliGemmaProcessor",),
    "qwen2_5_vl": _QWEN2,
    "qwen2_vl": _QWEN2,
    "qwen3_vl": ("Qwen3VLProcessor",),
    "vipllava": ("LlavaProcessor",),
}
"""Classes of processors by family, as its checkpoints name them."""

_PAST = "its inner model reads the embeddings of its text model past its own get_input_embeddings"
_INSIDE = "its text model embeds tokens inside its own forward, where no region token can be put in their place"
_QFORMER = "its language model gets a question former's queries, and no views of it have been tested"
REFUSED: dict[str, str] = {
    "idefics3": _PAST,
    "smolvlm": _PAST,
    "blip": _INSIDE,
    "kosmos-2": _INSIDE,
    "blip-2": _QFORMER,
    "instructblip": _QFORMER,
    "llama4": "it has no inner model: vision tower and language model are children of the outer one",
}
"""Why a model takes no regions, by ``model_type``."""


def family_of(config: Any) -> Family:
    """The family of a model.

    Args:
        config: of the model.

    Raises:
        ValueError: for a model that takes no regions, with the known ones.
    """
    return FAMILIES[family_key(config)]


def family_key(config: Any) -> str:
    """Key in :data:`FAMILIES` of a model.

    Args:
        config: of the model.

    Raises:
        ValueError: for a model that takes no regions, with the known ones.
    """
    kind, tower = config.model_type, getattr(getattr(config, "vision_config", None), "model_type", None)
    for key in (f"{kind}/{tower}", kind):
        if key in FAMILIES:
            return key
    known = ", ".join(sorted(FAMILIES))
    why = f": {REFUSED[kind]}" if kind in REFUSED else ""
    raise ValueError(f"models of type {kind!r} take no regions{why}. Known types: {known}")


def is_of_another_family(processor: Any, config: Any) -> bool:
    """Whether a processor's class is that of other families alone; classes that no family names are of any.

    Args:
        processor: of transformers, or derived from one.
        config: of the model.
    """
    classes = {one.__name__ for one in type(processor).__mro__}
    known = classes & {name for names in PROCESSORS.values() for name in names}
    return bool(known) and not known & {*PROCESSORS.get(family_key(config), known)}
