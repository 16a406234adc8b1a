"""The files that a run reads beside its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvit_ext.data.records import load_records
from pvit_ext.training.arguments import check_data
from pvit_ext.training.region_cache import open_caches


def check_files(data: Any, training: Any) -> None:
    """Check all files that a run reads beside its model, before minutes go into loading that; reads the records.

    Args:
        data: :class:`~pvit_ext.training.arguments.DataFlags` with ``data_path`` and ``image_folder``.
        training: :class:`~pvit_ext.training.arguments.TrainingFlags`.

    Raises:
        FileNotFoundError: for a file of records that is not there.
        ValueError: for images without a folder, and as :func:`~pvit_ext.training.arguments.check_data`.
        RecordError: for bad records, with all of them; held-out ones have to be good, all of them.
        CacheError: for a cache of region features that is not complete, or of other images.
    """
    held_out = training.region_eval_data
    if held_out is not None and not Path(held_out).is_file():
        raise FileNotFoundError(f"--region_eval_data {held_out} is not there, or is no file")
    check_data(data, training)
    named = {"data_path": data.read[0]}
    if held_out is not None:  # read again once the model is there, from the index that this leaves
        named["region_eval_data"] = load_records(held_out, data.image_folder)
    if data.image_folder is None:
        for flag, records in named.items():
            if images := records.summary.images:
                raise ValueError(f"--image_folder is missing: the folder of the {images} images that --{flag} names")
    open_caches(data)
