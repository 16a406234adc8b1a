"""LION's hint vector in a model of transformers: written wherever the id of ``<hint>`` stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pvit_ext.adapters.lion.hint import TagHint
from pvit_ext.hosts.transformers.facts import host_facts
from pvit_ext.hosts.transformers.truncation import check_cut
from pvit_ext.prompt import HINT_PLACEHOLDER


def hint_of(outer: Any) -> TagHint | None:
    """The hint vector of a model, or None."""
    found: TagHint | None = getattr(outer, "region_hint", None)
    return found


def write_hints(outer: Any, embeds: Tensor, ids: Tensor) -> Tensor:
    """Embeddings (B, L, D) of ids (B, L), with the model's hint vector where its id stands."""
    if (part := hint_of(outer)) is None:
        return embeds
    return part.write(embeds, ids == hint_id(outer.config))


def hint_id(config: Any) -> int:
    """The id of ``<hint>``, by the config of a model that has a hint vector.

    Raises:
        ValueError: for one that was attached without its processor.
    """
    found = host_facts(config).hint_token_id
    if found is None:
        raise ValueError(
            f"the model has a hint vector, but its config names no id of {HINT_PLACEHOLDER}: attach it with its "
            "processor, pvit_ext.attach(model, config, processor=processor)"
        )
    return found


def check_hints(ids_by_text: Any, texts: Sequence[str], token_id: int) -> None:
    """Refuse ids that lack a hint.

    Args:
        ids_by_text: ids of each text.
        texts: prompts, of which one has a hint at least.
        token_id: of ``<hint>``.

    Raises:
        RegionError: naming the sample.
    """
    wanted = [text.count(HINT_PLACEHOLDER) for text in texts]
    names = [f"its {count} {HINT_PLACEHOLDER}" for count in wanted]
    check_cut(ids_by_text, token_id, wanted, names, "the text or its tags")
