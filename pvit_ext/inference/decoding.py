"""The likeliest token each time, one answer a query, whatever a checkpoint's own ``generation_config`` asks for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import transformers

logger = logging.getLogger(__name__)

_ALWAYS = {"use_cache": True, "do_sample": False}
"""Said to each ``generate``; models often sample or keep no cache of themselves, which none means for ``ask``."""
_LIKELIEST = {
    **dict.fromkeys(("num_beams", "num_return_sequences", "num_beam_groups"), 1),
    "diversity_penalty": 0.0,
    **dict.fromkeys(("constraints", "force_words_ids", "penalty_alpha", "dola_layers", "max_time")),
}
"""With other values answers are others."""
_WHERE_OTHERWISE = {
    **_LIKELIEST,
    **dict.fromkeys(("prompt_lookup_num_tokens", "assistant_early_exit")),
    "use_mtp": False,
}
"""Said where the model's own value is another: not every transformers knows all.

Beams and contrastive search take other tokens than the likeliest. What speculates takes one row alone, several tokens
a step. The time of a batch would cut its answers short, each time elsewhere.
"""
_UNKNOWN = object()


def one_likeliest(own: Any, config: Any, given: Collection[str]) -> dict[str, Any]:
    """Options of ``generate`` for one answer of the likeliest tokens, except for what the caller decides.

    Args:
        own: the model's ``generation_config``; None for a registered host's model without one.
        config: the caller's ``generation_config``, if there is one.
        given: names of options that the caller gives.
    """
    other = {name: one for name, one in _WHERE_OTHERWISE.items() if (getattr(own, name, None) or one) != one}
    chosen = {
        name: one for name, one in (_ALWAYS | other).items() if name not in given and not _decides(config, name, one)
    }
    if left := [f"{name}={getattr(own, name)}" for name in other if name in chosen]:
        said_once(", ".join(left))
    return chosen


def asks_for_others(own: Mapping[str, Any]) -> bool:
    """Whether the values of a ``generation_config`` ask for other answers than those of :func:`one_likeliest`."""
    return any((own.get(name) or one) != one for name, one in _LIKELIEST.items())


def _decides(config: Any, name: str, likeliest: Any) -> bool:
    """Whether a caller's config decides about an option.

    One with the likeliest's own value does not, as it may be a default: transformers 4.50 and later 4.x put the model's
    value in its place. One that does not know the option does: a ``generate`` that does not either would refuse it.
    """
    return config is not None and getattr(config, name, _UNKNOWN) not in (None, likeliest)


def stop_strings(config: Any) -> Any:
    """The texts by which a ``generation_config`` ends answers, where this transformers reads them; else None."""
    return getattr(config, "stop_strings", None) if hasattr(transformers, "StopStringCriteria") else None


def stop_criteria(config: Any, tokenizer: Any) -> list[Any]:
    """What ends a row (1, L) of ids where :func:`stop_strings` do."""
    if not (texts := stop_strings(config)):
        return []
    return [transformers.StopStringCriteria(tokenizer, [texts] if isinstance(texts, str) else texts)]


@lru_cache(16)
def said_once(options: str) -> None:
    """Say in the log that options are not used; the engine comes by with each batch."""
    logger.warning(
        "the model's own generation_config says %s, which is not used: an answer is made of the likeliest tokens; "
        "pvit_ext.ask takes such options as arguments",
        options,
    )
