"""The likeliest token each time, one answer a query, whatever a checkpoint's own ``generation_config`` asks for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import transformers
from transformers import GenerationConfig, PretrainedConfig

from pvit_ext.data.image_files import short
from pvit_ext.hosts.checkpoint_kind import find_kind, lowest_checkpoint

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
_STEERS: dict[str, Any] = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0, "min_new_tokens": 0, "min_length": 0, "bad_words_ids": [], "suppress_tokens": [],
    "begin_suppress_tokens": [], "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": {},
    "exponential_decay_length_penalty": None, "guidance_scale": 1.0, "watermarking_config": None, "stop_strings": [],
}  # fmt: skip
"""Values of a generation config that change greedy answers -> where they do not; others are not used in asking."""
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


def own_options(path: str, base: str | None = None) -> dict[str, Any]:
    """A checkpoint's own ``generation_config``, read without loading any weights; it may have further keys.

    Args:
        path: folder or hub id.
        base: checkpoint under it, in place of the one that it names.
    """
    lowest = lowest_checkpoint(find_kind(path, base))
    try:
        return GenerationConfig.from_pretrained(lowest).to_dict()
    except OSError:  # an old checkpoint has it in its config
        return PretrainedConfig.get_config_dict(lowest)[0]


def described(own: Mapping[str, Any]) -> str:
    """How answers are chosen: greedily, with what a checkpoint's :func:`own_options` add to that."""
    known = GenerationConfig()  # an option of another version of transformers is without effect
    steers = [
        f"{name} {short(own[name])}"
        for name, none in _STEERS.items()
        if hasattr(known, name) and own.get(name) not in (None, none)
    ]
    return f"greedy, {', '.join(steers)} of the checkpoint" if steers else "greedy"


def own_mark(own: Mapping[str, Any]) -> dict[str, str]:
    """What a file of answers says where a checkpoint's :func:`own_options` ask for beams and the like.

    Earlier versions answered by those, and said nothing of it: their answers are not gone on with.
    """
    return {"decoding": "greedy"} if any((own.get(name) or one) != one for name, one in _LIKELIEST.items()) else {}


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
        "the model's own generation_config says %s, which is not used; pvit_ext.ask takes such options as arguments",
        options,
    )
