"""A complete cache: whose maps it holds, of which images, and the maps themselves, from the disk's own pages."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvit_ext.data.cache.images import all_images, images_with_regions, is_unchanged
from pvit_ext.data.cache.key import DTYPES, CacheError, differences, encoder_key, width_of
from pvit_ext.data.cache.shard import maps_file, read_list, state_of
from pvit_ext.data.cache.source import BLANK
from pvit_ext.data.image_files import path_of
from pvit_ext.data.records import Record
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.files import read_json, sha256_file
from pvit_ext.regions.region import RegionError

ABOUT, IMAGES = "cache.json", "images.jsonl"
_SHOWN = 10
_ADVICE = "make it with `pvit-ext data cache`, or train without --region_cache"
logger = logging.getLogger(__name__)


class FeatureCache:
    """What a tower made of images, in a folder that ``pvit-ext data cache`` wrote.

    Args:
        folder: of the cache.

    Raises:
        CacheError: when it is not complete.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / ABOUT).is_file():
            part = self.folder.with_name(self.folder.name + ".part")
            begun = f"; {part} is unfinished, the same command goes on with it" if part.is_dir() else ""
            raise CacheError(f"{folder} is no cache of region features: it has no {ABOUT}{begun}. {_ADVICE}")
        try:
            self.about = read_json(self.folder / ABOUT)
            self.key: dict[str, Any] = self.about["key"]
            self._entries = _sharing(read_list(self.folder / IMAGES))
            self._states = self._check_files()
        except (ValueError, KeyError, OSError) as error:
            raise CacheError(f"the cache {folder} is damaged ({error}): {_ADVICE}") from error
        self._numbers = {entry["name"]: number for number, entry in enumerate(self._entries)}
        self._shards: dict[int, Tensor] = {}

    def _check_files(self) -> list[tuple[int, int]]:
        """The states of the files of maps; raises ValueError or OSError when one is missing or too short."""
        if len(self._entries) != self.about["images"]:
            raise ValueError(f"{IMAGES} lists {len(self._entries)} images of {self.about['images']}")
        ends = [0] * self.about["shards"]
        for entry in self._entries:
            for tensor in entry.get("tensors", ()):
                ends[entry["shard"]] = max(ends[entry["shard"]], tensor["offset"] + _length(tensor))
        states = [_state(maps_file(self.folder, number)) for number in range(len(ends))]
        for number, (end, (size, _)) in enumerate(zip(ends, states, strict=True)):
            if size < end:
                raise ValueError(f"{maps_file(self.folder, number).name} has {size} bytes, {end} are listed")
        return states

    def _check_unchanged(self, shard: int) -> None:
        """Refuse maps that were written after their list was read: they would be those of other images."""
        path = maps_file(self.folder, shard)
        if _state(path) != self._states[shard]:
            raise CacheError(
                f"{path} has changed since the cache was opened: start the run again once the cache is complete"
            )

    @property
    def is_of_vision(self) -> bool:
        """Whether it is of a model's vision tower, not of a region encoder's own."""
        return bool(self.about["all_images"])

    def check_encoder(self, encoder: object, dtype: torch.dtype | None = None) -> None:
        """Refuse an encoder that would make other maps; every rank has to call it under ZeRO-3.

        Args:
            encoder: of the run.
            dtype: that it will compute in, by default that of its weights.

        Raises:
            CacheError: saying in what it differs.
        """
        if not isinstance(encoder, TowerEncoder):
            name = getattr(encoder, "name", None)
            raise CacheError(f"--region_cache {self.folder}: the region encoder {name!r} has no tower of its own")
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            raise CacheError(
                f"--region_cache {self.folder}: the encoder {encoder.name!r} trains, its maps would change"
            )
        weight = next(encoder.parameters())
        self.check_key(encoder_key(encoder, dtype or weight.dtype), weight.device.type, "encoder")

    def check_key(self, own: dict[str, Any], device: str, what: str) -> None:
        """Refuse what a run would make otherwise.

        Args:
            own: key of the run.
            device: type of the one that the run's tower lies on.
            what: has the tower.

        Raises:
            CacheError: saying in what they differ.
        """
        if found := differences(self.key, own):
            raise CacheError(f"the cache {self.folder} is not of this run's {what}: {'; '.join(found)}. {_ADVICE}")
        made, threads = self.about["made"], torch.get_num_threads()
        if self.key["dtype"] == "float32" and made["device"] == device == "cpu" and made["threads"] != threads:
            logger.warning(
                "the cache %s was made with %d threads of torch, this run has %d: float32 sums differ in their last "
                "bits (OMP_NUM_THREADS, or --threads of the cache)",
                self.folder, made["threads"], threads,
            )  # fmt: skip

    def check_images(self, data_path: str, image_folder: str, records: Iterable[Record]) -> None:
        """Refuse images that it lacks, or that are not the ones it was made of.

        Args:
            data_path: of the records; those that the cache was made for are not read once more.
            image_folder: of the run.
            records: of the run.

        Raises:
            CacheError: listing them.
        """
        if sha256_file(data_path) == self.about["data"]:
            paths = {name: path_of(image_folder, name) for name in self._numbers}
        else:
            paths = all_images(records) if self.is_of_vision else images_with_regions(records)
        absent = [name for name in paths if name not in self._numbers]
        if absent:
            raise CacheError(f"the cache {self.folder} lacks {_listed(absent)} of {data_path}. {_ADVICE}")
        if other := [name for name, path in paths.items() if not self._is_of(name, path)]:
            raise CacheError(f"the cache {self.folder} was made of other files than {_listed(other)}. {_ADVICE}")

    def _is_of(self, name: str, path: str) -> bool:
        entry = self._entries[self._numbers[name]]
        if name == BLANK or "problem" in entry:  # no file; or unreadable then, and a record with it is replaced
            return True
        try:
            return is_unchanged(path, state_of(entry))
        except OSError:
            return False

    @property
    def names(self) -> list[str]:
        """Of all images, those that could not be read last."""
        return list(self._numbers)

    def number(self, name: str) -> int:
        """The number of an image, whose pages the system begins to read.

        Raises:
            RegionError: when there is none.
            CacheError: when its maps were written anew.
        """
        number = self._numbers.get(name)
        if number is None or "problem" in self._entries[number]:
            reason = "it is not in it" if number is None else self._entries[number]["problem"]
            raise RegionError(f"the cache {self.folder} has no map of {name}: {reason}")
        self._check_unchanged(self._entries[number]["shard"])
        self._read_ahead(self._entries[number])
        return number

    def read(self, number: int) -> Tensor:
        """The map (C, H, W) of a region encoder's tower, channels-last; not to be changed."""
        return self.tensors(number)[0].permute(2, 0, 1)

    def tensors(self, number: int) -> list[Tensor]:
        """What is stored of an image, on pages that all processes share; not to be changed."""
        entry = self._entries[number]
        shard = self._shard(entry["shard"])
        return [_view(shard, tensor) for tensor in entry["tensors"]]

    def about_image(self, number: int) -> dict[str, Any]:
        """What else is stored of an image; see :class:`~pvit_ext.data.cache.source.Made`."""
        found: dict[str, Any] = self._entries[number].get("about", {})
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which each process opens for itself."""
        return {**vars(self), "_shards": {}}

    def _shard(self, number: int) -> Tensor:
        if number not in self._shards:
            mapped = np.memmap(maps_file(self.folder, number), np.uint8, "r")
            self._check_unchanged(number)  # once it is open: what replaces it is another file
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is read-only: nothing writes to it
                self._shards[number] = torch.from_numpy(mapped)
        return self._shards[number]

    def _read_ahead(self, entry: dict[str, Any]) -> None:
        if not hasattr(os, "posix_fadvise"):
            return
        handle = os.open(maps_file(self.folder, entry["shard"]), os.O_RDONLY)
        try:
            start, last = entry["tensors"][0]["offset"], entry["tensors"][-1]
            os.posix_fadvise(handle, start, last["offset"] + _length(last) - start, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


def _state(path: Path) -> tuple[int, int]:
    """By what to see that a file was written anew."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _sharing(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of which those of images of one size share what is equal: a cache may have many."""
    known: dict[str, Any] = {}
    for entry in entries:
        if "about" in entry:
            entry["about"] = known.setdefault(json.dumps(entry["about"]), entry["about"])
    return entries


def _view(shard: Tensor, tensor: dict[str, Any]) -> Tensor:
    start = tensor["offset"]
    return shard[start : start + _length(tensor)].view(DTYPES[tensor["dtype"]]).view(tensor["shape"])


def _length(tensor: dict[str, Any]) -> int:
    return prod(tensor["shape"]) * width_of(DTYPES[tensor["dtype"]])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} image(s): {', '.join(names[:_SHOWN])}{more}"
