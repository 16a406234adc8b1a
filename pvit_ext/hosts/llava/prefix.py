"""A batch for LLaVA's ``generate`` whose prompts' beginning was read once; see :mod:`pvit_ext.hosts.prefix`."""

from __future__ import annotations

from typing import Any

import torch

from pvit_ext.hosts.llava.embedded import prompt_embeds
from pvit_ext.hosts.prefix import Prefix, can_share, common, laid_out, read_once


@torch.no_grad()
def with_prefix(model: Any, batch: dict[str, Any], names: object, prefix: Prefix) -> dict[str, Any]:
    """The batch with its prompts as embeddings, and keys and values of their beginning; itself where it has none.

    Args:
        model: LLaVA.
        batch: arguments of its ``generate``.
        names: of the images.
        prefix: that was read last.
    """
    if not can_share(model.config, model.get_model(), model.language_model_class.forward):
        return batch
    rows = prompt_embeds(model, batch)

    def read(known: int, begin: int, cache: Any) -> None:
        model.get_model()(inputs_embeds=rows[0][None, known:begin], use_cache=True, past_key_values=cache)

    if not (begin := read_once(prefix, rows, common(rows), names, model.config, read)):
        return batch
    mask = laid_out([torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows], begin)
    return {
        "inputs_embeds": laid_out(rows, begin),
        "attention_mask": mask,
        "past_key_values": prefix.repeated(len(rows)),
    }
