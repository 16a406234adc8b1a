"""Options of generation that read or count the ids of a prompt, for prompts that go in as embeddings."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

_SKIPS_PADDING = "prompt_ignore_length" in inspect.signature(RepetitionPenaltyLogitsProcessor.__init__).parameters
_OPTION = "repetition_penalty"
_READ_THE_PROMPT = {"guidance_scale": 1, "encoder_repetition_penalty": 1, "encoder_no_repeat_ngram_size": 0}
"""Options for which transformers takes the ids of the prompt, and the values that do nothing."""


def refuse_options_of_ids(own: Any, options: dict[str, Any]) -> None:
    """Refuse options of ``generate`` that would fail without the ids of the prompt, or do nothing.

    Args:
        own: the model's ``generation_config``.
        options: by the caller.

    Raises:
        ValueError: naming the option.
    """
    for name, neutral in _READ_THE_PROMPT.items():
        if (value := _value(name, own, options)) not in (None, neutral):
            raise ValueError(
                f"{name}={value} needs the ids of the prompt, which a LLaVA model gets as embeddings: leave it out "
                "(as an argument, and in generation_config)"
            )


def counting_all_new_tokens(own: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``generate`` whose penalty counts every new token, as it does without padding.

    transformers 5 leaves out as many ids at the beginning of each row as its mask has padding. With embeddings there
    are no ids of the prompt, so these would be the first new tokens, and an answer would depend on its batch.

    Args:
        own: the model's ``generation_config``.
        options: by the caller; not changed.
    """
    given = options.get("logits_processor") or []
    if not _SKIPS_PADDING or any(isinstance(one, RepetitionPenaltyLogitsProcessor) for one in given):
        return options
    penalty = _value(_OPTION, own, options)
    if penalty in (None, 1.0):
        return options
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), *given])
    return {**options, _OPTION: 1.0, "logits_processor": processors}


def _value(name: str, own: Any, options: dict[str, Any]) -> Any:
    """An option's value: the caller's, that of the caller's ``generation_config``, or the model's own; else None."""
    configs = (getattr(one, name, None) for one in (options.get("generation_config"), own))
    return next((one for one in (options.get(name), *configs) if one is not None), None)
