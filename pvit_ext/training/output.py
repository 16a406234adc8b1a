"""What lies in ``--output_dir`` before a run writes into it."""

from __future__ import annotations

from pathlib import Path

from pvit_ext.hosts.checkpoint_kind import CHECKPOINT, LORA, REGIONS, results_in
from pvit_ext.training.stages import trains_parts_alone


def check_output(folder: str, stage: str, lora: bool) -> None:
    """Refuse a folder with a result of another kind: the files of both would be loaded as one.

    A result of the same kind is written over.

    Args:
        folder: ``--output_dir``, there or not.
        stage: of the run.
        lora: the run trains an adapter.

    Raises:
        ValueError: saying what lies there.
    """
    own = LORA if lora else REGIONS if trains_parts_alone(stage) else CHECKPOINT
    for kind, file in results_in(Path(folder)).items():
        if kind != own:
            raise ValueError(
                f"--output_dir {folder} holds {kind} ({file}), and this run writes {own}, whose files "
                "would lie among those: name another --output_dir, or move what is there away"
            )
