"""LLaVA's conversation template of a model, and how its answers end."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import StoppingCriteria

logger = logging.getLogger(__name__)

CONV_OF_MODEL_TYPE = {"llava_llama": "v1", "llava_mistral": "mistral_instruct", "llava_mpt": "mpt"}
LLAVA_DEFAULT = "vicuna_v1"
"""What LLaVA's ``train()`` takes for ``--version v0`` and ``v0.5``, and for a name that it does not know."""


def conversation(model: Any, version: str | None = None, system: str | None = None, tokenizer: Any = None) -> Any:
    """LLaVA's conversation template for a model: the given one, the checkpoint's, or the usual one of its kind.

    Args:
        model: LLaVA model with regions.
        version: name of one of LLaVA's templates.
        system: in place of the template's own system prompt.
        tokenizer: its own chat template says what is usual, where the checkpoint names none.

    Raises:
        ValueError: for an unknown name, or a system prompt where the template has no place for one.
    """
    config = model.region_config
    if version is None and config is not None and config.conv_version:
        version = trained_template(config.conv_version)
    name = usual_template(model.config.model_type, tokenizer) if version is None else version
    template = template_named(name)
    return template if system is None else _with_system(template, name, system)


def usual_template(model_type: str, tokenizer: Any) -> str:
    """The name of the template that a model is asked with where nobody names one.

    Args:
        model_type: of the model.
        tokenizer: whose own chat template counts first; or None.
    """
    return template_of_tokenizer(tokenizer, model_type) or CONV_OF_MODEL_TYPE.get(model_type, LLAVA_DEFAULT)


def template_named(name: str) -> Any:
    """LLaVA's template of a name.

    Raises:
        ValueError: for an unknown one, with the known ones.
    """
    from llava.conversation import conv_templates

    if name not in conv_templates:
        raise ValueError(f"unknown conversation template {name!r}; known: {', '.join(sorted(conv_templates))}")
    return conv_templates[name]


def trained_template(stored: str) -> str:
    """The template that LLaVA trained on where a checkpoint stores this name of one."""
    from llava.conversation import conv_templates

    if stored in conv_templates and stored != "v0":
        return stored
    logger.warning(
        "the checkpoint says that it was trained with --version %s, for which LLaVA trains on the template %s: asking "
        "with that; conv_version= (--conv-version) takes another",
        stored,
        LLAVA_DEFAULT,
    )
    return LLAVA_DEFAULT


def template_of_tokenizer(tokenizer: Any, model_type: str) -> str | None:
    """LLaVA's template that is like a tokenizer's own chat template; None where either has none.

    Args:
        tokenizer: or None.
        model_type: of the model; MPT's template is ChatML with MPT's system prompt.
    """
    own = getattr(tokenizer, "chat_template", None)
    text = "".join(own.values()) if isinstance(own, dict) else own or ""
    if "<|im_start|>" in text:
        return "mpt" if model_type.endswith("mpt") else "chatml_direct"
    if "[INST]" in text:
        return "llava_llama_2" if "<<SYS>>" in text else "mistral_instruct"
    return None


def _with_system(template: Any, name: str, system: str) -> Any:
    from llava.conversation import SeparatorStyle

    if template.sep_style == SeparatorStyle.PLAIN:
        raise ValueError(f"the conversation template {name!r} has no place for a system prompt; take another")
    conv = template.copy()
    conv.system = f"<|im_start|>system\n{system}" if template.sep_style == SeparatorStyle.MPT else system
    return conv


def stops(tokenizer: Any, stop: str | None) -> tuple[list[int], list[Any]]:
    """Ids that end an answer: end of sequence, and the template's separator where that is an added token (<|im_end|>).

    Another separator (``###``) ends an answer by a stopping criterion; LLaVA's own looks for it at a wrong position.
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not stop or stop == tokenizer.eos_token:
        return ids, []
    if stop in tokenizer.get_added_vocab():
        return [*ids, tokenizer.convert_tokens_to_ids(stop)], []
    return ids, [_StopString(tokenizer, stop, ids)]


class _StopString(StoppingCriteria):
    """Ends a batch when each sample has spelled the stop string or ended by itself; answers are cut there afterwards.

    One value for the batch: transformers 4.36 and 4.37 cannot take one per sample, later ones copy it to each.
    """

    def __init__(self, tokenizer: Any, stop: str, ends: list[int]) -> None:
        self.tokenizer, self.stop, self.ends = tokenizer, stop, set(ends)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """One bool; ``generate`` shows new tokens only."""
        samples = input_ids.tolist()
        texts = self.tokenizer.batch_decode(input_ids)
        done = (self.stop in text or not self.ends.isdisjoint(ids) for ids, text in zip(samples, texts, strict=True))
        return torch.tensor(all(done), device=input_ids.device)
