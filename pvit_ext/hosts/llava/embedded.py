"""A LLaVA's prompts as its language model reads them, and that language model alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.language_model import text_model
from pvit_ext.hosts.stored_vision import TOWER_OUTPUT


@torch.no_grad()
def prompt_embeds(model: Any, batch: dict[str, Any]) -> list[Tensor]:
    """Embeddings (L, D) of each prompt, its images and regions in place.

    Args:
        model: LLaVA.
        batch: arguments of its ``generate``.
    """
    mask = batch["attention_mask"].bool()
    _, _, here, _, embeds, _ = model.prepare_inputs_labels_for_multimodal(
        batch["inputs"], None, mask, None, None, batch["images"], batch["image_sizes"], batch["regions"],
        batch["region_extra"], None, batch.get(TOWER_OUTPUT),
    )  # fmt: skip
    if embeds is None:  # prompts without images
        embeds = model.get_input_embeddings()(batch["inputs"])
    here = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if here is None else here.bool()
    return [row[own] for row, own in zip(embeds, here, strict=True)]


def language_model(model: Any) -> Any:
    """The language model, whose tensors have their own names in LLaVA."""
    model_class = model.language_model_class
    kept = {name: value for name, value in model.config.to_dict().items() if name in _plain(model_class)}
    return text_model(model_class, model_class.config_class(**kept), model.state_dict())


def _plain(model_class: Any) -> set[str]:
    """Names of the values that the config of a text-only model has, without those that name its class."""
    named = {"model_type", "architectures", "transformers_version", "_name_or_path"}
    return {*model_class.config_class().to_dict()} - named
