"""What lies in ``--output_dir`` before a run writes into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvit_ext.hosts.checkpoint_kind import CHECKPOINT, LORA, REGIONS, results_in
from pvit_ext.training.stages import trains_parts_alone


def check_output(arguments: Any) -> None:
    """Refuse a folder with a result of another kind: the files of both would be loaded as one.

    A result of the same kind is written over.

    Args:
        arguments: transformers' training arguments with ``stage`` and ``lora_enable``.

    Raises:
        ValueError: saying what lies there.
    """
    own = LORA if arguments.lora_enable else REGIONS if trains_parts_alone(arguments.stage) else CHECKPOINT
    for kind, file in results_in(Path(arguments.output_dir)).items():
        if kind != own:
            raise ValueError(
                f"--output_dir {arguments.output_dir} holds {kind} ({file}), and this run writes {own}, whose files "
                "would lie among those: name another --output_dir, or move what is there away"
            )
