"""Prompts of a model of transformers as its language model reads them, and that language model alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.language_model import text_model
from pvit_ext.ops.hooks import own_hooks

_PLAIN = frozenset({"input_ids", "attention_mask", "position_ids", "inputs_embeds", "past_key_values", "use_cache"})
_PLAIN_TOO = frozenset({"cache_position", "return_dict", "output_attentions", "output_hidden_states", "cache"})

_BOTH_WAYS = "{} lets tokens of a prompt or an image see those behind them, which embeddings cannot say"


@torch.no_grad()
def prompt_embeds(model: Any, batch: dict[str, Any], both_ways: bool) -> list[Tensor]:
    """Embeddings (L, D) of each prompt, its images and regions in place.

    Args:
        model: with or without regions.
        batch: arguments of its ``generate``.
        both_ways: see :class:`~pvit_ext.hosts.transformers.families.base.Family`.

    Raises:
        ValueError: for a family whose language model needs more than the embeddings, with what it is.
    """
    if both_ways:
        raise ValueError(_BOTH_WAYS.format(_name(model)))
    language = model.base_model.language_model
    found: list[dict[str, Any]] = []

    def note(_args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
        found.append(kwargs)

    with own_hooks([(language, note)]):
        model(**{key: value for key, value in batch.items() if key != "labels"})
    given = found[-1]
    _check(model, given)
    mask = batch["attention_mask"].bool()
    return [row[own] for row, own in zip(given["inputs_embeds"], mask, strict=True)]


def language_model(model: Any) -> Any:
    """The language model with its head.

    Raises:
        ValueError: for one that transformers has no class of text alone for.
    """
    from transformers import AutoModelForCausalLM

    config = model.config.get_text_config()
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"the language model of {_name(model)} ({type(config).__name__}) is no model of text alone in "
            "transformers: its positions are those of images too"
        )
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    own = model.base_model.language_model.state_dict()
    head = model.get_output_embeddings()
    tensors = {f"model.{name}": value for name, value in own.items()} | {"lm_head.weight": head.weight}
    return text_model(model_class, config, tensors)


def _check(model: Any, given: dict[str, Any]) -> None:
    positions = given.get("position_ids")
    if isinstance(positions, Tensor) and positions.ndim > 2:
        raise ValueError(
            f"{_name(model)} counts positions in several axes (M-RoPE), by the rows and columns of an image's cells: "
            "an engine that gets embeddings alone counts them one by one, and would answer wrongly"
        )
    if isinstance(given.get("attention_mask"), dict):
        raise ValueError(_BOTH_WAYS.format(_name(model)))
    others = {name for name, value in given.items() if isinstance(value, (Tensor, list, tuple, dict))}
    if more := sorted(others - _PLAIN - _PLAIN_TOO):
        raise ValueError(f"{_name(model)} hands its language model {', '.join(more)} beside the embeddings")


def _name(model: Any) -> str:
    return f"a {type(model).__name__}"
