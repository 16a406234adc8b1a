"""Whether LLaVA's masking finds the answers of a conversation template with a tokenizer, tried before training.

LLaVA places answers by the lengths of pieces tokenised apart, with constants for LLaMA's tokenizer. With another one a
template may mask every answer, train on the questions, or end in an AttributeError; ``v0`` and its like do so with any.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterable
from typing import Any

import torch
from llava import conversation
from llava.constants import IGNORE_INDEX

from pvit_ext.hosts.llava.chat import CONV_OF_MODEL_TYPE, template_of_tokenizer
from pvit_ext.prompt import IMAGE_PLACEHOLDER

_QUESTIONS = "What is in <region>?", "And the dog?"
_ANSWERS = "a red fish", "It is seven."
_SLACK = 3
"""Characters behind the end of an answer that may share its last token."""

_UNLIMITED = 1 << 20
"""Tokens. What ``--model_max_length`` cuts off is no fault of a template; records are checked for it one by one."""

Kind = tuple[bool, bool]
"""(with an image, with several turns)"""


def check_template(tokenizer: Any, records: Iterable[dict[str, Any]], preprocess: Any) -> None:
    """Refuse the template of a run if the answers of its records would not be trained on.

    Args:
        tokenizer: of the run.
        records: with ``conversations`` and, some of them, ``image``; read only if a kind of record fails.
        preprocess: LLaVA's function of this name; takes the template from ``conversation.default_conversation``.

    Raises:
        ValueError: with what the template trains on, and the templates that work with this tokenizer.
    """
    used, templates = conversation.default_conversation, conversation.conv_templates
    problems = _problems(used, tokenizer, preprocess)
    if not problems or not (found := problems.keys() & {_kind(record) for record in records}):
        return
    name = next((name for name, template in templates.items() if template is used), used.version)
    kind = min(found)
    talking = {key: one for key, one in templates.items() if one.sep_style != conversation.SeparatorStyle.PLAIN}
    working = [one for one in talking if not _problems(templates[one], tokenizer, preprocess).keys() & found]
    raise ValueError(
        f"conversation template {name} (--version) with {type(tokenizer).__name__}: {problems[kind]}. Templates that "
        f"train on the answers and nothing else with this tokenizer: {', '.join(working) or 'none'}"
    )


def _problems(template: Any, tokenizer: Any, preprocess: Any) -> dict[Kind, str]:
    """What goes wrong for which kind of record."""
    kinds: list[Kind] = [(True, False), (True, True), (False, False), (False, True)]
    if template.sep_style == conversation.SeparatorStyle.PLAIN:
        kinds = kinds[:1]  # it takes no other, and says so for each record
    before = conversation.default_conversation, tokenizer.model_max_length
    conversation.default_conversation, tokenizer.model_max_length = template, _UNLIMITED
    try:
        found = {kind: _problem(kind, tokenizer, preprocess) for kind in kinds}
    finally:
        conversation.default_conversation, tokenizer.model_max_length = before
    return {kind: problem for kind, problem in found.items() if problem}


def _problem(kind: Kind, tokenizer: Any, preprocess: Any) -> str | None:
    has_image, several = kind
    count = 2 if several else 1
    turns = []
    for number in range(count):
        start = f"{IMAGE_PLACEHOLDER}\n" if has_image and number == 0 else ""
        turns += [{"from": "human", "value": start + _QUESTIONS[number]}, {"from": "gpt", "value": _ANSWERS[number]}]
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its "tokenization mismatch"
            labels = preprocess([copy.deepcopy(turns)], tokenizer, has_image=has_image)["labels"][0]
    except Exception as error:  # whatever LLaVA's arithmetic meets in an unknown tokenizer
        return f"LLaVA's masking of {count} turn(s) ends in {type(error).__name__}: {error}"
    spans = _trained(labels, tokenizer)
    stop = conversation.default_conversation.sep2 or conversation.default_conversation.sep
    longest = len(stop) + _SLACK
    if len(spans) == count and all(
        span.startswith(answer) and len(span) <= len(answer) + longest
        for span, answer in zip(spans, _ANSWERS, strict=False)
    ):
        return None
    return f"of the answers {list(_ANSWERS[:count])} LLaVA trains on {spans or 'nothing'}"


def _trained(labels: torch.Tensor, tokenizer: Any) -> list[str]:
    """The texts that labels (L,) keep."""
    spans: list[list[int]] = [[]]
    for label in labels.tolist():
        if label != IGNORE_INDEX:
            spans[-1].append(max(label, 0))  # LLaVA's sentinels are below 0
        elif spans[-1]:
            spans.append([])
    return [tokenizer.decode(span).strip() for span in spans if span]


def _kind(record: dict[str, Any]) -> Kind:
    return "image" in record, len(record["conversations"]) > 2


def follow_checkpoint(version: str | None, model: Any, tokenizer: Any) -> None:
    """If a run names no template, take its checkpoint's, or the one that :func:`conversation` would ask with.

    Args:
        version: ``--version``; with ``v0``, its default, LLaVA would keep the template ``vicuna_v1``.
        model: LLaVA model with regions.
        tokenizer: of the run.
    """
    if version != "v0":
        return
    stored, templates = model.region_config and model.region_config.conv_version, conversation.conv_templates
    if stored not in templates or stored == "v0" or templates[stored].sep_style == conversation.SeparatorStyle.PLAIN:
        kind = model.config.model_type
        stored = template_of_tokenizer(tokenizer, kind) or CONV_OF_MODEL_TYPE.get(kind)
    if stored is not None:
        conversation.default_conversation = templates[stored]
