"""A repetition penalty for prompts that go in as embeddings."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

_SKIPS_PADDING = "prompt_ignore_length" in inspect.signature(RepetitionPenaltyLogitsProcessor.__init__).parameters
_OPTION = "repetition_penalty"


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
    configs = (getattr(one, _OPTION, None) for one in (options.get("generation_config"), own))
    penalty = next((one for one in (options.get(_OPTION), *configs) if one is not None), 1.0)
    if penalty == 1.0:
        return options
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), *given])
    return {**options, _OPTION: 1.0, "logits_processor": processors}
