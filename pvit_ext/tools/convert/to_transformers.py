"""A LLaVA-1.5 or 1.6 checkpoint of LLaVA's own code as one of transformers, region modules included."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from pvit_ext.config import CONFIG_KEY, regions_from_json
from pvit_ext.files import atomic_folder, check_new_folder, copy_file, read_json
from pvit_ext.hosts.llava.classes import load_config
from pvit_ext.hosts.transformers.placeholder import placeholders_of, token_of
from pvit_ext.tools.convert.configs import check_is_convertible, hub_config
from pvit_ext.tools.convert.names import EMBEDDING, HEAD, TOWER, to_hub
from pvit_ext.tools.convert.origin import Origin
from pvit_ext.tools.convert.processor_files import TEMPLATES, hub_tokenizer, template_kind, write_processor
from pvit_ext.tools.convert.shards import Change, write_all
from pvit_ext.tools.convert.tower import digest, digests_of, prefix_of_tower, vision_tower_of
from pvit_ext.tools.shards import Checkpoint, nbytes, open_checkpoint

logger = logging.getLogger(__name__)
_MULTIPLE = 64


def to_transformers(checkpoint: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write a checkpoint that ``AutoModelForImageTextToText`` and :func:`pvit_ext.load_pretrained_model` load.

    Language model, vision tower, mm_projector and region modules stay bit for bit; the embedding grows by rows for
    ``<image>``, ``<pad>`` and the placeholders of regions. The folder ``llava`` in the new one keeps what converting
    back needs.

    Args:
        checkpoint: folder of a whole LLaVA checkpoint on LLaMA or Mistral.
        out: a new folder.

    Raises:
        ValueError: for what transformers' classes cannot hold.
        OSError: when files are missing, ``out`` is taken, or the disk is full.
    """
    from tqdm import tqdm

    check_new_folder(out)
    source = open_checkpoint(checkpoint)
    values = read_json(source.folder / "config.json")
    if "vision_config" in values:
        raise ValueError(f"{checkpoint} is one of transformers already: --to llava?")
    host = load_config(str(source.folder))
    check_is_convertible(host)
    tower = vision_tower_of(host, source.folder)
    names: dict[str, str | None] = {name: to_hub(name) for name in source.tensors}  # raises
    own = [name for name, new in names.items() if str(new).startswith(TOWER)]
    if prefix := prefix_of_tower(source, host, tower):
        others, digests = {}, digests_of(source, own, prefix)
    else:
        names |= dict.fromkeys(own)
        others = {TOWER + name: tensor for name, tensor in tower.tensors().items()}
        digests = {name: digest(tensor) for name, tensor in others.items()}
    tokenizer, image_id = hub_tokenizer(source.folder)
    template = TEMPLATES[template_kind(host, tokenizer)]
    placeholders = placeholders_of(regions_from_json(values[CONFIG_KEY]).config) if CONFIG_KEY in values else {}
    ids = {name: token_of(tokenizer, token) for name, token in placeholders.items()}
    rows = source.entry("model.embed_tokens.weight").shape[0]
    grown = -(-max(rows, len(tokenizer)) // _MULTIPLE) * _MULTIPLE
    config = hub_config(host, values, tower, grown, image_id, ids)
    size = sum(shard.path.stat().st_size for shard in source.shards) + sum(map(nbytes, others.values()))
    change = Change(names.__getitem__, grown, frozenset({EMBEDDING, HEAD}))
    with atomic_folder(out, size) as folder, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        write_all(source, folder, change, others, bar.update)
        config.save_pretrained(folder)
        write_processor(folder, host, tower, tokenizer, template)
        _copy_region_weights(source, folder, values)
        Origin(rows, grown, prefix, digests, template).save(source, folder)
    logger.info("%s: the embedding has %d rows, of which %d are new", out, grown, grown - rows)


def _copy_region_weights(source: Checkpoint, folder: Path, values: dict[str, Any]) -> None:
    """Copy a frozen encoder's file that lies beside the checkpoint."""
    name = values.get(CONFIG_KEY, {}).get("weights")
    if name and not Path(name).is_absolute() and (path := source.folder / name).is_file():
        (target := folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, target)
