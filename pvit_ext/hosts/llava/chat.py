"""LLaVA's conversation template of a model, and how its answers end."""

from __future__ import annotations

from typing import Any

import torch
from transformers import StoppingCriteria

_CONV_OF_MODEL_TYPE = {"llava_llama": "v1", "llava_mistral": "mistral_instruct", "llava_mpt": "mpt"}


def conversation(model: Any, version: str | None = None) -> Any:
    """LLaVA's conversation template for a model: asked for, named by the checkpoint, or usual for its kind."""
    from llava.conversation import conv_templates

    config = model.region_config
    version = version or (config and config.conv_version) or _CONV_OF_MODEL_TYPE[model.config.model_type]
    if version not in conv_templates:
        raise ValueError(f"unknown conversation template {version!r}; known: {', '.join(sorted(conv_templates))}")
    return conv_templates[version]


def stops(tokenizer: Any, stop: str | None) -> tuple[list[int], list[Any]]:
    """Ids that end an answer: end of sequence, and the template's separator where that is an added token (<|im_end|>).

    Another separator (``###``) ends it by a stopping criterion; LLaVA's own looks for it in the wrong place.
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not stop or stop == tokenizer.eos_token:
        return ids, []
    if stop in tokenizer.get_added_vocab():
        return [*ids, tokenizer.convert_tokens_to_ids(stop)], []
    return ids, [_StopString(tokenizer, stop, ids)]


class _StopString(StoppingCriteria):
    """Ends a batch when each row has spelled the stop string or ended by itself; answers are cut there afterwards.

    One value for the batch: transformers 4.36 and 4.37 cannot take one per row, later ones spread it over the rows.
    """

    def __init__(self, tokenizer: Any, stop: str, ends: list[int]) -> None:
        self.tokenizer, self.stop, self.ends = tokenizer, stop, set(ends)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """One bool; ``generate`` shows new tokens only."""
        rows = input_ids.tolist()
        texts = self.tokenizer.batch_decode(input_ids)
        done = (self.stop in text or not self.ends.isdisjoint(row) for row, text in zip(rows, texts, strict=True))
        return torch.tensor(all(done), device=input_ids.device)
