"""A checkpoint of transformers on disk, and the files beside its weights that name region modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from pvit_ext.config import CONFIG_KEY, regions_from_json
from pvit_ext.files import read_json
from pvit_ext.hosts.model_regions import stored_regions
from pvit_ext.hosts.stored import StoredModel
from pvit_ext.hosts.transformers.facts import HostFacts
from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.hosts.transformers.images_only import load_processor
from pvit_ext.hosts.transformers.keys import HOST_KEY
from pvit_ext.hosts.transformers.model_regions import check_depths
from pvit_ext.hosts.transformers.placeholder import placeholders_of, token_of, warn_of_unread

_PROCESSOR_FILE = "processor_config.json"


def read_stored(folder: Path) -> StoredModel:
    """What region modules need to know of a checkpoint.

    Args:
        folder: of a checkpoint of transformers.

    Raises:
        ValueError: when its model takes no regions.
    """
    config = AutoConfig.from_pretrained(folder)
    tower = family_of(config).tower_config(config)
    return StoredModel("", int(config.get_text_config().hidden_size), tower, stored_regions(config))


def add_regions(folder: Path, regions: dict[str, Any]) -> None:
    """Name new region modules in config.json, and give the tokenizer its tokens.

    Args:
        folder: with the files beside the weights.
        regions: the nested key of config.json.

    Raises:
        ValueError: when the model has no row of the embedding for a placeholder of theirs, or takes no such vision
            aggregator.
    """
    config, processor = AutoConfig.from_pretrained(folder), load_processor(str(folder))
    if (chosen := regions_from_json(regions).config).lion_aggregator:
        check_depths(config, chosen)
    tokenizer, images = processor.tokenizer, processor.image_processor
    before = len(tokenizer)
    ids = {name: _token_id(tokenizer, config, folder, token) for name, token in placeholders_of(chosen).items()}
    warn_of_unread(tokenizer, chosen)
    if len(tokenizer) != before:
        tokenizer.save_pretrained(folder)
    facts = HostFacts(image_mean=tuple(images.image_mean), image_std=tuple(images.image_std), **ids)
    path = folder / "config.json"
    path.write_text(json.dumps({**read_json(path), CONFIG_KEY: regions, HOST_KEY: facts.to_json()}, indent=2) + "\n")
    _forget_regions(folder / _PROCESSOR_FILE)


def _token_id(tokenizer: Any, config: Any, folder: Path, placeholder: str) -> int:
    token_id, rows = token_of(tokenizer, placeholder), int(config.get_text_config().vocab_size)
    if token_id >= rows:
        raise ValueError(
            f"{folder} has {rows} rows in its embedding and a token for each, none for {placeholder}: load it, "
            "pvit_ext.attach(model, config, processor=processor), and save both; attach adds a row"
        )
    return token_id


def _forget_regions(path: Path) -> None:
    """Remove what a processor's own file says of other region modules; config.json then says it."""
    if path.is_file() and CONFIG_KEY in (values := read_json(path)):
        del values[CONFIG_KEY]
        path.write_text(json.dumps(values, indent=2) + "\n")
