"""The W&B run of an output folder: a training that continues in the folder continues in the run."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from pvit_ext.files import atomic_write

FILE = "wandb_run.txt"
"""File in an output folder with the id of its run."""


def run_id(folder: Path, goes_on: bool = True) -> str:
    """The id of a folder's run; a new one if there is none, or if the run does not continue."""
    path = folder / FILE
    if not (goes_on and path.is_file()):
        with atomic_write(path) as temporary:
            temporary.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def open_run(arguments: Any, goes_on: bool) -> None:
    """Open the run of a training, to which transformers then reports; a run that the user opened stays.

    Args:
        arguments: transformers' TrainingArguments.
        goes_on: whether the training continues from a checkpoint.
    """
    import wandb

    if wandb.run is None and not os.environ.get("WANDB_RUN_ID"):
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", "huggingface"),  # as transformers has it
            name=arguments.run_name,
            id=run_id(Path(arguments.output_dir), goes_on),
            resume="allow",
        )
