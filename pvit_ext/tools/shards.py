"""A checkpoint's weights on disk, one file or shards, ``.safetensors`` or ``.bin``: never all of them in memory."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.files import read_json

Tensors = Iterator[tuple[str, Tensor]]

_LAYOUTS = (("model", ".safetensors"), ("pytorch_model", ".bin"))
"""Stem and suffix of a checkpoint's files, in the order in which transformers looks for them."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class Shard:
    """One file of a checkpoint; names and shapes are read at once, values when they are asked for.

    Attributes:
        entries: tensors on the meta device, by name.

    Raises:
        ValueError: when the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_safetensors = path.suffix == ".safetensors"
        self.entries = _safetensors_entries(path) if self.is_safetensors else read_checkpoint(path, "meta")

    def read(self, names: Iterable[str]) -> Tensors:
        """Tensors one by one; all of a ``.bin`` file is in memory until the last was taken."""
        if not self.is_safetensors:
            content = read_checkpoint(self.path)
            yield from ((name, content[name]) for name in names)
            return
        for name in names:
            with safe_open(self.path, "pt") as file:  # opened for each: the part of the map that was read is memory
                yield name, file.get_tensor(name)

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the tensors' bytes."""
        return {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in self.read(names)}

    def write(self, path: Path, names: Sequence[str]) -> None:
        """Write some of this file's tensors to another file of its kind, and compare what is there, bit for bit.

        Raises:
            OSError: when they differ.
        """
        if self.is_safetensors:
            write_safetensors(path, {name: self.entries[name] for name in names}, self.read)
        else:
            save_tensors(path, dict(self.read(names)))
        if Shard(path).digests(names) != self.digests(names):
            raise OSError(f"{path} does not hold what was read from {self.path}: check the disk, then try again")


@dataclass
class Checkpoint:
    """The files of a checkpoint folder.

    Args:
        folder: where they are.
        shards: its weights.
        tensors: the shard that holds each tensor.
        layout: stem and suffix of the weights' names.
        metadata: of its index.
    """

    folder: Path
    shards: list[Shard]
    tensors: dict[str, Shard]
    layout: tuple[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)

    def read(self, names: Iterable[str]) -> Tensors:
        """Tensors one by one; names of one shard that follow each other are read together."""
        for _, group in groupby(names, key=lambda name: self.tensors[name].path):
            part = list(group)
            yield from self.tensors[part[0]].read(part)

    def entry(self, name: str) -> Tensor:
        """A tensor on the meta device."""
        return self.tensors[name].entries[name]

    def other_files(self) -> list[Path]:
        """What lies beside the weights: tokenizer and the like; no folders, config, or weights in another layout."""
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.is_file()
            and path.name not in {"config.json", *(shard.path.name for shard in self.shards)}
            and not any(path.name.startswith(stem) and suffix in path.name for stem, suffix in _LAYOUTS)
        )


def open_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read the index and every shard's table of contents, and check that they fit together.

    Raises:
        FileNotFoundError: when the folder, its weights or a shard is missing.
        ValueError: when a file is damaged, or a shard lacks a tensor that the index names.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing: name the folder of a whole checkpoint")
    for layout in _LAYOUTS:
        single, index = folder / "".join(layout), folder / f"{''.join(layout)}.index.json"
        if single.is_file():
            shard = Shard(single)
            return Checkpoint(folder, [shard], dict.fromkeys(shard.entries, shard), layout)
        if index.is_file():
            return _open_index(index, layout)
    names = [f"{stem}{suffix}" for stem, suffix in _LAYOUTS]
    raise FileNotFoundError(f"{folder} has no {' or '.join(names)} and no index of shards: it is no whole checkpoint")


def _open_index(index: Path, layout: tuple[str, str]) -> Checkpoint:
    content = read_json(index)
    files: dict[str, str] = content.get("weight_map", {})
    if not files:
        raise ValueError(f"{index} has no weight_map: fetch it again")
    if missing := sorted({file for file in files.values() if not (index.parent / file).is_file()}):
        raise FileNotFoundError(f"{index} names {missing}, which are not there: fetch them into {index.parent}")
    shards = {file: Shard(index.parent / file) for file in sorted(set(files.values()))}
    if absent := sorted(name for name, file in files.items() if name not in shards[file].entries):
        name = absent[0]
        raise ValueError(
            f"{index} names {len(absent)} tensors that their shards lack, such as {name} in {files[name]}: index and "
            "shards are not of one save, fetch both again"
        )
    tensors = {name: shards[file] for name, file in files.items()}
    return Checkpoint(index.parent, list(shards.values()), tensors, layout, content.get("metadata", {}))


def write_index(
    folder: Path, layout: tuple[str, str], files: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, Any]
) -> None:
    """Write the index of files by the tensors in each, which may be on any device."""
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    total = sum(nbytes(tensor) for tensors in files.values() for tensor in tensors.values())
    content = {"metadata": {**metadata, "total_size": total}, "weight_map": weight_map}
    (folder / f"{''.join(layout)}.index.json").write_text(json.dumps(content, indent=2) + "\n")


def save_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors in memory to a file, in the format of its suffix."""
    if path.suffix == ".safetensors":
        write_safetensors(path, state, lambda names: ((name, state[name]) for name in names))
        return
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's archive writer reports a full disk so
        raise OSError(f"{path.name}: {str(error).partition(chr(10))[0]}") from error


def write_safetensors(
    path: Path, entries: Mapping[str, Tensor], read: Callable[[list[str]], Iterable[tuple[str, Tensor]]]
) -> None:
    """Write tensors as they come; safetensors' own writer wants all of them at once, and copies them.

    Args:
        path: a new file.
        entries: tensors whose dtypes and shapes are known, on any device, by name.
        read: yields the tensors of these names in this order.
    """
    names = sorted(entries, key=lambda name: -entries[name].element_size())  # so that each is aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + nbytes(entries[name])
        dtype, shape = _DTYPE_NAMES[entries[name].dtype], list(entries[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("xb") as stream:
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, tensor in read(names):
            stream.write(_bytes(tensor))


def nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor's values, on any device."""
    return tensor.numel() * tensor.element_size()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _safetensors_entries(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt"):
            pass  # checks that the file is as long as its header says
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut off ({error}): fetch it again") from error
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    if unknown := sorted({item["dtype"] for item in header.values()} - _DTYPES.keys()):
        raise ValueError(f"{path} holds tensors of dtypes {unknown}; known: {sorted(_DTYPES)}")
    return {
        name: torch.empty(item["shape"], dtype=_DTYPES[item["dtype"]], device="meta") for name, item in header.items()
    }
