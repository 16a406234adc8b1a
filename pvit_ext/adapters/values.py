"""Values of an adapter's fields that would fail later, or would train nothing: told before a model is loaded."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args, get_origin

from pvit_ext.adapters.refusals import INITS
from pvit_ext.value_types import check_types

_START = "init_lora_weights"
_ABOVE_ZERO = (
    *("r", "alpha", "lora_alpha", "psoft_alpha", "randlora_alpha", "delora_lambda", "scaling", "n_frequency"),
    *("d_initial", "init_scale", "effective_rank"),
)
"""Fields whose zero makes an adapter that cannot learn, or none."""
_OF_LAYERS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern")
_NUMBERS = ("alpha_pattern", "lambda_pattern")
"""Fields that map layers to numbers; the other patterns map them to whole numbers."""
TOKENS = ("token_indices", "trainable_token_indices")


def check_values(kind: Any, tuner: str, values: Mapping[str, Any], said_by: Mapping[str, str]) -> None:
    """Refuse values that their type allows, and that no adapter trains with.

    Args:
        kind: peft's config of the tuner.
        tuner: peft's name of it.
        values: by field.
        said_by: field -> words for what gave it, where that is not ``--lora_options``.

    Raises:
        ValueError: naming field or flag, with what it takes.
    """
    if (start := values.get(_START)) in INITS:  # peft would ask for more options of it
        raise ValueError(f"{_START} {start} is refused: {INITS[start]}")
    defaults = {item.name: item.default for item in fields(kind)}
    hints = _hints(kind)
    for name, value in values.items():
        said = said_by.get(name, f"--lora_options: {name}")
        for wrong in _wrong(name, value, defaults.get(name), tuner, hints.get(name)):
            raise ValueError(f"{said} {value!r}: {wrong}")
    if tuner == "IA3" and values.get("feedforward_modules") is None:
        raise ValueError(
            "--lora_options: IA3 needs feedforward_modules, the layers whose inputs it scales: for LLaMA "
            '{"feedforward_modules": ["down_proj"]}'
        )
    if tuner == "LN_TUNING" and values.get("target_modules") is None:  # a copy of each linear layer, else
        raise ValueError(
            "--lora_options: LN_TUNING needs target_modules, the norms that it trains copies of: for LLaMA "
            '{"target_modules": ["input_layernorm", "post_attention_layernorm"]}'
        )
    if tuner == "TRAINABLE_TOKENS" and not values.get("token_indices"):
        raise ValueError('--lora_options: TRAINABLE_TOKENS needs token_indices, such as {"token_indices": [5, 7]}')
    if values.get("layers_pattern") and values.get("layers_to_transform") in (None, []):
        raise ValueError(
            f"--lora_options: layers_pattern {values['layers_pattern']!r} says where the blocks are that "
            "layers_to_transform names: give that too, or drop it"
        )


def nested(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON objects turned into the config classes that peft declares for their fields, if it declares any.

    Args:
        kind: peft's config.
        values: by field.

    Raises:
        ValueError: for a field that such a class does not have, takes otherwise, or refuses the value of.
    """
    objects = {name for name, value in values.items() if isinstance(value, dict)}
    hints = _hints(kind) if objects else {}
    return {
        name: _as_class(name, hints.get(name), value) if name in objects else value for name, value in values.items()
    }


def check_tokens(config: Any, count: int) -> None:
    """Refuse token indices that no row of the embedding matrix has.

    Args:
        config: of peft.
        count: of rows.

    Raises:
        ValueError: with the indices.
    """
    for name in TOKENS:
        if beyond := [one for one in _indices(getattr(config, name, None)) if one >= count]:
            raise ValueError(f"--lora_options: {name} {beyond}: the vocabulary has {count:,} tokens, 0 to {count - 1}")


def has_tokens(options: Mapping[str, Any]) -> bool:
    """Whether options name tokens to train."""
    return any(options.get(name) for name in TOKENS)


def _hints(kind: Any) -> dict[str, Any]:
    """The types of a class's fields; none where some are imported for type checkers alone."""
    try:
        return typing.get_type_hints(kind)
    except NameError:
        return {}


def _indices(value: Any) -> list[int]:
    lists = value.values() if isinstance(value, dict) else [value or []]
    return [one for part in lists for one in part]


def _wrong(name: str, value: Any, default: Any, tuner: str, hint: Any) -> Iterator[str]:
    """What is wrong with one value."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _ABOVE_ZERO and number and not (value > 0 or value == default == 0):
        yield "give a number above 0, the adapter cannot learn with it"
    if name.endswith("dropout") and number and not 0 <= value < 1:
        yield "give a part from 0 to less than 1, at 1 the adapter learns nothing"
    if isinstance(value, str):
        yield from _wrong_word(name, value, hint)
    if name in _OF_LAYERS:
        texts = [value] if isinstance(value, str) else value if name == "layers_pattern" else None
        yield from (problem for text in texts or () if (problem := _no_pattern(text)))
    if name.endswith("_pattern") and isinstance(value, dict):
        yield from _wrong_pattern(name, value, tuner)
    if name == "layers_to_transform" and value == []:
        yield "it names no block; give the numbers of some, or drop it for all of them"
    if name in TOKENS and value is not None and _names_none(value):
        yield "it names no token; give the ids of some, or drop it"
    if name in TOKENS and (below := [one for one in _indices(value) if one < 0]):
        yield f"{below} are no tokens: give their ids, from 0"


def _names_none(tokens: Any) -> bool:
    """Whether a list of ids, or one for a layer each, is empty."""
    lists = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    return not lists or not all(lists)


def _wrong_word(name: str, value: str, hint: Any) -> Iterator[str]:
    words, open_ended = _words(hint)
    if name == "bias" and not words and not value.endswith("_only"):  # each tuner's own, such as boft_only
        words, open_ended = ["none", "all"], False
    if name == _START:
        if not words:  # as in 0.4 of LLaVA's pins, which trained plain LoRA under any name
            yield f"peft {version('peft')} knows no such start, only true and false"
        if value.startswith("pissa_niter_"):
            return
        words = [word for word in words if word not in INITS and "[" not in word]
    if words and not open_ended and value not in words:
        yield f"peft {version('peft')} takes {', '.join(words)}" + (", true and false" if name == _START else "")


def _words(hint: Any) -> tuple[list[str], bool]:
    """The words that a type takes, and whether it takes any others."""
    parts = [hint, *get_args(hint)] if get_origin(hint) is not Literal else [hint]
    named = [word for part in parts if get_origin(part) is Literal for word in get_args(part) if isinstance(word, str)]
    return named, str in parts


def _no_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        return f"{text!r} is no pattern of names ({error}); a list takes names: [{text!r}]"
    return ""


def _wrong_pattern(name: str, value: dict[str, Any], tuner: str) -> Iterator[str]:
    yield from (problem for key in value if (problem := _no_pattern(key)))
    integers = name not in _NUMBERS and tuner != "OSF"  # whose ranks may be parts
    for one in value.values():
        if isinstance(one, bool) or not isinstance(one, int if integers else (int, float)) or not one > 0:
            yield f"each value is a {'whole ' if integers else ''}number above 0, got {one!r}"


def _as_class(name: str, hint: Any, value: dict[str, Any]) -> Any:
    kinds = [one for one in (hint, *get_args(hint)) if isinstance(one, type) and is_dataclass(one)]
    if not kinds:
        return value
    known = {item.name for item in fields(kinds[0]) if item.init}
    if unknown := sorted(value.keys() - known):
        raise ValueError(
            f"--lora_options: {name} of peft {version('peft')} has no field {', '.join(unknown)}; it has "
            f"{', '.join(sorted(known))}"
        )
    check_types(kinds[0], value, f"--lora_options: {name}")
    hints = _hints(kinds[0])
    for key, one in value.items():
        for wrong in _wrong(key, one, None, "", hints.get(key)):
            raise ValueError(f"--lora_options: {name}: {key} {one!r}: {wrong}")
    try:
        return kinds[0](**value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--lora_options: {name}: {error}") from error
