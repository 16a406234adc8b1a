"""Names of tensors: LLaVA's own, and the layout that llava-hf checkpoints have, which every transformers reads."""

from __future__ import annotations

TOWER = "vision_tower.vision_model."
LLAVA_TOWERS = ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower.vision_tower.")
"""Prefixes of a vision tower's tensors, as transformers 4 and 5 write them."""

_PAIRS = (
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.region_", "region_"),
    ("model.image_newline", "image_newline"),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
_LATER = (
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.vision_tower.vision_model.", TOWER),
    ("model.vision_tower.", TOWER),
    ("model.image_newline", "image_newline"),
    ("lm_head.", "language_model.lm_head."),
)
"""What transformers writes since 4.52, and the same in the layout of llava-hf checkpoints."""

EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"


def to_hub(name: str) -> str:
    """A LLaVA name in the layout of llava-hf checkpoints.

    Raises:
        ValueError: for a tensor that belongs to neither.
    """
    for prefix in LLAVA_TOWERS:
        if name.startswith(prefix):
            return TOWER + name.removeprefix(prefix)
    return _renamed(name, _PAIRS)


def to_llava(name: str, tower: str) -> str:
    """Inverse of :func:`to_hub`.

    Args:
        name: in the layout of llava-hf checkpoints.
        tower: one of :data:`LLAVA_TOWERS`.
    """
    if name.startswith(TOWER):
        return tower + name.removeprefix(TOWER)
    return _renamed(name, tuple((theirs, ours) for ours, theirs in _PAIRS))


def as_on_hub(name: str) -> str:
    """A name that any version of transformers wrote, in the layout of llava-hf checkpoints."""
    if name.startswith(("language_model.", "multi_modal_projector.", "region_", "image_newline", TOWER)):
        return name
    if name.startswith("vision_tower."):  # of a model that was made from a config
        return TOWER + name.removeprefix("vision_tower.")
    return _renamed(name, _LATER)


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for before, after in pairs:
        if name.startswith(before):
            return after + name.removeprefix(before)
    raise ValueError(f"{name} belongs to no part of a LLaVA-1.5 or 1.6: language model, mm_projector, CLIP tower")
