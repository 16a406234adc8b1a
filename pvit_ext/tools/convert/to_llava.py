"""A LLaVA-1.5 or 1.6 checkpoint of transformers as one of LLaVA's own code, region modules included."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from pvit_ext.config import CONFIG_KEY
from pvit_ext.files import atomic_folder, check_new_folder, copy_file, read_json
from pvit_ext.tools.convert.configs import check_is_llavas, llava_values
from pvit_ext.tools.convert.names import EMBEDDING, HEAD, LLAVA_TOWERS, TOWER, as_on_hub, to_llava
from pvit_ext.tools.convert.origin import FILE, FOLDER, Origin, origin_of
from pvit_ext.tools.convert.shards import Change, write_all
from pvit_ext.tools.convert.template import conv_version_of, template_of
from pvit_ext.tools.shards import Checkpoint, open_checkpoint, save_tensors

TOWER_FOLDER = "vision_tower"
_NOT_LLAVAS = {"processor_config.json", "chat_template.jinja", "preprocessor_config.json"}


def to_llava_checkpoint(
    checkpoint: str | os.PathLike[str], out: str | os.PathLike[str], vision_tower: str | None = None
) -> None:
    """Write a checkpoint that LLaVA's own code and :func:`pvit_ext.load_pretrained_model` load.

    A checkpoint that was converted from LLaVA's comes back bit for bit, except what was trained since. Any other's
    vision tower is written to a folder of its own in the new one, unless ``vision_tower`` names one, and its chat
    template becomes the name of LLaVA's that asks alike; a warning says where there is none.

    Args:
        checkpoint: folder of a whole checkpoint of transformers' llava or llava_next on LLaMA or Mistral.
        out: a new folder.
        vision_tower: path or hub id of the CLIP tower, in place of the one in the checkpoint.

    Raises:
        ValueError: for what LLaVA's classes cannot hold.
        OSError: when files are missing, ``out`` is taken, or the disk is full.
    """
    from tqdm import tqdm
    from transformers import AutoConfig

    check_new_folder(out)
    source = open_checkpoint(checkpoint)
    if "vision_config" not in read_json(source.folder / "config.json"):
        raise ValueError(f"{checkpoint} is one of LLaVA's own code already, or no LLaVA: --to transformers?")
    config, origin = AutoConfig.from_pretrained(source.folder), origin_of(source.folder)
    check_is_llavas(config)
    names = {name: as_on_hub(name) for name in source.tensors}  # raises
    embedding = next(name for name, new in names.items() if new == EMBEDDING)
    rows = _rows(source, source.entry(embedding).shape[0], origin)
    own_tower = _tower_names(source, names, origin, vision_tower)
    prefix = origin.tower if origin is not None else None

    def rename(name: str) -> str | None:
        if names[name].startswith(TOWER) and prefix is None:
            return None
        return to_llava(names[name], prefix or LLAVA_TOWERS[0])

    head = frozenset({to_llava(EMBEDDING, ""), to_llava(HEAD, "")})
    size = sum(shard.path.stat().st_size for shard in source.shards)
    named = vision_tower or str(Path(out).absolute() / TOWER_FOLDER)
    values = _values(source, config, rows, origin, named if own_tower or vision_tower else None)
    with atomic_folder(out, size) as folder, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        write_all(source, folder, Change(rename, rows, head), {}, bar.update)
        if own_tower:
            _write_tower(source, folder / TOWER_FOLDER, own_tower, config)
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        _copy_files(source, folder, origin)


def _rows(source: Checkpoint, found: int, origin: Origin | None) -> int:
    if origin is None:
        return found
    if found != origin.grown:
        raise ValueError(
            f"{source.folder} has {found} rows in its embedding, {origin.grown} when it was converted: the LLaVA it "
            f"came from lacks the tokens added since; remove {source.folder / FOLDER} to convert it as it is"
        )
    return origin.rows


def _tower_names(source: Checkpoint, names: dict[str, str], origin: Origin | None, given: str | None) -> dict[str, str]:
    """Tensors of the vision tower that have to be written to a folder of their own, by their names there."""
    if given is not None:
        return {}
    tower = {name: new.removeprefix(TOWER) for name, new in names.items() if new.startswith(TOWER)}
    if origin is not None:
        found = {names[name]: digest for shard in source.shards for name, digest in _digests(shard, tower).items()}
        if found == origin.digests:  # it is the one that the config names
            return {}
    return tower


def _digests(shard: Any, tower: dict[str, str]) -> dict[str, str]:
    digests: dict[str, str] = shard.digests([name for name in shard.entries if name in tower])
    return digests


def _write_tower(source: Checkpoint, folder: Path, tower: dict[str, str], config: Any) -> None:
    """A folder that ``CLIPVisionModel`` and ``CLIPImageProcessor`` load."""
    folder.mkdir()
    state: dict[str, Tensor] = {f"vision_model.{tower[name]}": value for name, value in source.read(sorted(tower))}
    save_tensors(folder / "model.safetensors", state)
    config.vision_config.architectures = ["CLIPVisionModel"]
    config.vision_config.save_pretrained(folder)
    images = {**_images(source.folder), "image_processor_type": "CLIPImageProcessor"}
    for name in ("do_pad", "image_grid_pinpoints", "processor_class"):
        images.pop(name, None)
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=2) + "\n")


def _images(folder: Path) -> dict[str, Any]:
    """Values of the image processor, from a file of its own or from the processor's."""
    if (path := folder / "preprocessor_config.json").is_file():
        return read_json(path)
    images: dict[str, Any] = read_json(folder / "processor_config.json").get("image_processor", {})
    return images


def _values(source: Checkpoint, config: Any, rows: int, origin: Origin | None, tower: str | None) -> dict[str, Any]:
    if origin is not None:
        values = read_json(source.folder / FOLDER / "config.json")
        values |= {} if tower is None else {"mm_vision_tower": tower}
    else:
        assert tower is not None
        values = llava_values(config, rows, tower, bool(_images(source.folder).get("do_pad")))
        values["torch_dtype"] = read_json(source.folder / "config.json").get("dtype")
    regions = getattr(config, CONFIG_KEY, None)
    if origin is None or regions != values.get(CONFIG_KEY) or _is_edited(source.folder, origin):
        kept = source.folder / FOLDER if origin is not None else source.folder
        version = conv_version_of(source.folder, values["model_type"], regions, kept / "tokenizer_config.json")
        if regions is not None and version is not None:
            regions = {**regions, "conv_version": version}
    if regions is None:
        values.pop(CONFIG_KEY, None)
    elif values.get(CONFIG_KEY) != regions:  # else the file stays as it was, down to the order of its keys
        values[CONFIG_KEY] = regions
    return values


def _is_edited(folder: Path, origin: Origin) -> bool:
    """Whether the chat template is another than converting wrote: else the checkpoint is asked as it was before."""
    return origin.chat_template is not None and template_of(folder) != origin.chat_template


def _copy_files(source: Checkpoint, folder: Path, origin: Origin | None) -> None:
    kept = source.folder / FOLDER
    if origin is not None:
        files = [path for path in sorted(kept.iterdir()) if path.name not in (FILE, "config.json")]
    else:
        files = [path for path in source.other_files() if path.name not in _NOT_LLAVAS]
    for path in files:
        copy_file(path, folder / path.name)
