"""How far merging an adapter moves the logits if its base was quantised in training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lion.tasks import any_task
from pvit_ext.adapters.quantization import Quantization
from pvit_ext.hosts.checkpoint_kind import CheckpointKind
from pvit_ext.hosts.find import host_of_checkpoint
from pvit_ext.hosts.load_call import LoadCall

_TEXT = "A quick brown fox jumps over the lazy dog, and two men in red coats watch it from the other side of the road."


def quantization_of(kind: CheckpointKind) -> Quantization | None:
    """The quantization of the base in an adapter's training; None for the base's own dtype.

    Args:
        kind: of any folder.
    """
    return Quantization.of_folder(kind.folder) if kind.adapter and kind.folder is not None else None


def distance_to_merged(kind: CheckpointKind, call: LoadCall, merged: Any, tokenizer: Any) -> str:
    """A sentence that compares logits of the merged model with those of the adapter on its quantised base.

    Args:
        kind: of the adapter's folder.
        call: the call that loaded the merged model.
        merged: the merged model.
        tokenizer: of both.
    """
    trained = host_of_checkpoint(kind).load(kind, replace(call, as_trained=True)).model
    ids = torch.tensor([tokenizer(_TEXT).input_ids])
    before, after = (logits_of_text(model, ids) for model in (trained, merged))
    moved = (before - after).abs()
    return (
        f"the adapter was trained on a base in {quantization_of(kind)} and is merged into full weights: logits of a "
        f"text move by {moved.mean():.2g} in the mean and {moved.max():.2g} at most (their deviation is "
        f"{before.std():.2g})"
    )


def logits_of_text(model: Any, ids: Tensor) -> Tensor:
    """Logits (1, L, V) in float32 of a text (1, L), by the adapters of any task where there are some.

    Args:
        model: of either host.
        ids: of the text.
    """
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **any_task(model, 1)).logits
    return found.float()
