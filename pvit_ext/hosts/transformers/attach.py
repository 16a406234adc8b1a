"""Giving a loaded model of transformers' a region encoder, in place."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.hosts.transformers.facts import HostFacts, host_facts
from pvit_ext.hosts.transformers.families import family_of, is_of_another_family
from pvit_ext.hosts.transformers.keys import HOST_KEY
from pvit_ext.hosts.transformers.model_regions import TransformersRegions
from pvit_ext.hosts.transformers.placeholder import claim_token, placeholders_of, warn_of_unread
from pvit_ext.hosts.transformers.processor import give_regions
from pvit_ext.hosts.transformers.processor_regions import ProcessorRegions


def attach(
    model: Any,
    config: RegionConfig,
    checkpoint: str = ".",
    filled_later: bool = False,
    facts: EncoderFacts | None = None,
    processor: Any = None,
) -> Any:
    """Give a loaded model a region encoder; see :func:`pvit_ext.attach`.

    Args:
        model: stock or region-enabled.
        config: which encoder, with which weights.
        checkpoint: folder in which a relative ``config.weights`` is looked up too.
        filled_later: region modules are loaded from a folder afterwards.
        facts: stored with a config that was read from a checkpoint.
        processor: of the model; it takes regions from now on, and its tokenizer gets the token ``<region>``. Only a
            model that has had regions before can do without.

    Returns:
        The same model.

    Raises:
        TypeError: for an adapter around a model, or a model without a head.
        ValueError: for a model that takes no regions, one without a processor, or the processor of another model.
    """
    from pvit_ext.hosts.transformers.classes import adopt_inner, region_class

    _check_model(model)
    _check_processor(model, processor)
    if processor is None and not filled_later:
        _check_placeholders(model, config)
    TransformersRegions(model).replace(config, checkpoint, filled_later, facts)
    if processor is not None:
        images = processor.image_processor
        stored = TransformersRegions(model).stored
        chosen = config if stored is None else stored.config
        wanted = placeholders_of(chosen).items()
        ids = {name: claim_token(model, processor.tokenizer, token) for name, token in wanted}
        warn_of_unread(processor.tokenizer, chosen)
        found = HostFacts(image_mean=tuple(images.image_mean), image_std=tuple(images.image_std), **ids)
        setattr(model.config, HOST_KEY, found.to_json())
    host_facts(model.config)  # raises
    model.__class__ = region_class(type(model))
    adopt_inner(model)
    if processor is not None and (regions := ProcessorRegions.of(model.config)) is not None:
        give_regions(processor, regions)
    return model


def _check_placeholders(model: Any, config: RegionConfig) -> None:
    """Refuse region modules that need a placeholder which the model's prompts have not had so far."""
    known, wanted = host_facts(model.config), placeholders_of(config)
    if lacking := [token for name, token in wanted.items() if getattr(known, name) is None]:
        raise ValueError(
            f"the model's prompts need {', '.join(lacking)}, which they had no use for before: "
            "pvit_ext.attach(model, config, processor=processor)"
        )


def _check_model(model: Any) -> None:
    family_of(model.config)  # raises
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"a {kind} is around the model: pvit_ext.attach(model, ...) comes first, get_peft_model and the like after"
        )
    if model.base_model is model:
        raise TypeError(
            f"a {kind} has no head that generates: load it by AutoModelForImageTextToText.from_pretrained, or "
            "pvit_ext.load_pretrained_model"
        )


def _check_processor(model: Any, processor: Any) -> None:
    example = "pvit_ext.attach(model, config, processor=AutoProcessor.from_pretrained(...))"
    if processor is None:
        if not hasattr(model.config, HOST_KEY):
            raise ValueError(f"attach needs the processor of a model of transformers': {example}")
        return
    kind = type(processor).__name__
    if missing := [name for name in ("tokenizer", "image_processor") if not hasattr(processor, name)]:
        raise ValueError(f"processor is a {kind} without {' and '.join(missing)}: give that of the model, {example}")
    if is_of_another_family(processor, model.config):
        raise ValueError(
            f"processor is a {kind}, which prepares images for models of another family than a {type(model).__name__} "
            f"of the type {model.config.model_type!r}: give the processor of the same checkpoint, {example}"
        )
    known = (getattr(processor, "image_token_id", None), getattr(processor.tokenizer, "image_token_id", None))
    found, wanted = {one for one in known if one is not None}, model.config.image_token_id
    if found and wanted not in found:
        raise ValueError(
            f"processor is a {kind} that writes the id {min(found)} for an image, the {type(model).__name__} reads "
            f"{wanted}: give the processor of the same checkpoint, {example}"
        )
