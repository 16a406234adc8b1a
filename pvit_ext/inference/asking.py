"""``ask``: queries in, answers out, batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pvit_ext.hosts.chat import Ends
from pvit_ext.hosts.image_features import ImageFeatures
from pvit_ext.hosts.prefix import is_plain_generation
from pvit_ext.inference.decoding import one_likeliest, stop_strings
from pvit_ext.inference.session import Session, naming_queries
from pvit_ext.regions.image_source import describe
from pvit_ext.tokens.query import Query


def ask(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Sequence[Query],
    max_new_tokens: int | None = None,
    batch_size: int = 8,
    conv_version: str | None = None,
    system: str | None = None,
    progress: bool = False,
    features: ImageFeatures | None = None,
    **generate_kwargs: Any,
) -> Any:
    """Answer every query, greedily by default; an answer is the same alone and in any batch.

    Args:
        model, tokenizer, image_processor: from :func:`~pvit_ext.load_pretrained_model`; of a model of transformers the
            third is its processor.
        queries: checked one by one before any is run.
        max_new_tokens: of each answer; default that of a ``generation_config`` that is given, else 64.
        batch_size: queries per ``generate`` call.
        conv_version: name of a conversation template, of LLaVA's models only; default the one the checkpoint was
            trained with, else the one like the tokenizer's own chat template, else the usual one of the model's kind.
        system: system prompt in place of the template's.
        progress: show a progress bar over the batches.
        features: what the towers make of an image is taken from there, and kept there for further questions on it, in
            this call and later ones. Consecutive batches about one image read the beginning of their prompts once. The
            answers are those without, to the rounding of sums. A model of transformers without region modules keeps
            nothing, nor does a registered host that does not say how its tower sees an image.
        generate_kwargs: for transformers' ``generate``; arguments win over what a ``generation_config`` says. What the
            model's own says of sampling, beams and the number of answers is not taken.

    Returns:
        a list of one answer per query; with ``num_return_sequences`` above 1, of one list of answers per query.

    Raises:
        RegionError: naming the query; prompts, regions and image sizes are checked before anything is generated.
        TypeError: for arguments that ask sets itself, or that return more than text, also in a ``generation_config``.
    """
    check_queries(queries, batch_size)
    _check_options(generate_kwargs)
    session = Session(model, tokenizer, image_processor, conv_version, system, features)
    return ask_in(session, queries, max_new_tokens, batch_size, progress, **generate_kwargs)


def ask_in(
    session: Session,
    queries: Sequence[Query],
    max_new_tokens: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
    **generate_kwargs: Any,
) -> Any:
    """:func:`ask` within a session, whose images and beginnings of prompts are those of earlier calls too."""
    model, chat = session.model, session.chat
    own = getattr(model, "generation_config", None)  # a registered host's model may have none
    options = generate_options(session.tokenizer, chat.ends(), max_new_tokens, generate_kwargs, own)
    prompts = session.prompts(queries)
    prefix = is_plain_generation(own, generate_kwargs)
    starts: Any = range(0, len(queries), batch_size)
    if progress:
        from tqdm import tqdm

        starts = tqdm(starts, desc="asking", unit="batch")
    answers: list[Any] = []
    for start in starts:
        part = queries[start : start + batch_size]
        batch = session.batch(part, prompts[start : start + batch_size], prefix)
        with naming_queries(range(start, start + len(part))):
            ids = model.generate(**batch, **options)
        texts = chat.answers(ids, batch)
        each = len(texts) // len(part)
        answers += texts if each == 1 else [texts[first : first + each] for first in range(0, len(texts), each)]
    return answers


_SET_BY_ASK = {
    **dict.fromkeys(
        ("inputs", "input_ids", "inputs_embeds", "attention_mask", "position_ids"), "the queries give the prompts"
    ),
    **dict.fromkeys(
        ("images", "image_sizes", "pixel_values", "regions", "region_extra", "region_sizes", "region_views"),
        "the queries give it; Query(image, text, regions)",
    ),
    **dict.fromkeys(("tasks", "questions"), "the queries give it; Query(image, text, task=NAME)"),
    **dict.fromkeys(
        ("eos_token_id", "pad_token_id"),
        "the template and the tokenizer give it; to end answers elsewhere pass stopping_criteria=",
    ),
    "max_length": "it would count the prompt; pass max_new_tokens=",
    "min_length": "it would count the prompt and the padding of its batch; pass min_new_tokens=",
}
_MORE_THAN_TEXT = (
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
)  # fmt: skip


_USUAL_LENGTH = 64
"""New tokens of an answer."""


def check_queries(queries: Any, batch_size: int) -> None:
    """Refuse what would fail far from its cause: other objects than queries, and no batches.

    Raises:
        TypeError, ValueError: saying what to give.
    """
    if not isinstance(queries, (list, tuple)):
        raise TypeError(f"queries is {describe(queries)}; give a list: [Query(image, text, regions)]")
    for number, query in enumerate(queries):
        if not isinstance(query, Query):
            raise TypeError(f"query {number} is {describe(query)}; give Query(image, text, regions)")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more")


def _check_options(given: dict[str, Any]) -> None:
    """Refuse arguments of ``generate`` that cannot be passed on."""
    for name, value in given.items():
        if reason := _refusal(name, value):
            raise TypeError(reason.format(f"{name}="))
    config = given.get("generation_config")
    if config is not None and not hasattr(config, "to_diff_dict"):
        raise TypeError(
            f"generation_config is {describe(config)}; give transformers.GenerationConfig(...), or its values as "
            "arguments of ask"
        )


def _refusal(name: str, value: Any) -> str | None:
    """Why ask does not take an option of ``generate``, with a place for what was given; None where it does."""
    if name in _SET_BY_ASK:
        return f"ask does not take {{}}: {_SET_BY_ASK[name]}"
    if name in _MORE_THAN_TEXT and value:
        return "ask returns text and does not take {}: call model.generate, which returns the rest"
    return None


def _check_config(config: Any, own: Any, chosen: dict[str, Any], said: bool) -> None:
    """Refuse a ``generation_config`` that says what ask would have to override, where an answer could change by it.

    Args:
        config: of the caller.
        own: the model's, which may have been copied.
        chosen: what ask sets.
        said: whether somebody said how many new tokens there are.
    """
    for name, value in config.to_diff_dict().items():
        known = (getattr(own, name, None), chosen.get(name))
        if name == "pad_token_id" or any(_listed(value) == _listed(one) for one in known):
            continue  # what pads a batch reaches no answer
        if name == "max_length" and said:
            continue  # transformers takes max_new_tokens where both are said
        if reason := _refusal(name, value):
            raise TypeError(reason.format(f"{name}= ({value} in generation_config)"))


def _listed(value: Any) -> Any:
    """One id as a list of ids."""
    return [value] if type(value) is int else value


def generate_options(
    tokenizer: Any, ends: Ends, max_new_tokens: int | None, given: dict[str, Any], own: Any = None
) -> dict[str, Any]:
    """Arguments of ``generate`` beside the batch; what the caller gave wins.

    Args:
        tokenizer: of the model.
        ends: how answers end.
        max_new_tokens: of each answer; None for what the caller's ``generation_config`` says, else 64.
        given: by the caller.
        own: the model's ``generation_config``.

    Raises:
        TypeError: for a ``generation_config`` of the caller that says what is set here.
    """
    config = given.get("generation_config")
    said = max_new_tokens if max_new_tokens is not None else getattr(config, "max_new_tokens", None)
    chosen = {
        "return_dict_in_generate": False,
        "max_new_tokens": _USUAL_LENGTH if said is None else said,
        "eos_token_id": ends.ids,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends.ids[0],
    }
    if config is not None:
        _check_config(config, own, chosen, said is not None)
    options: dict[str, Any] = {**one_likeliest(own, config, given), **given}
    options["stopping_criteria"] = [*ends.criteria, *(given.get("stopping_criteria") or ())]
    if "stop_strings" in given or any(stop_strings(one) for one in (config, own)):
        options["tokenizer"] = tokenizer
    return options | chosen
