"""A run that goes on from its own last step: transformers looks for the end behind a step, and would take one more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from pvit_ext.files import read_json


class Finished(Exception):
    """The checkpoint is that of the last step: there is nothing to train."""


class EndIfFinished(TrainerCallback):
    """Leaves transformers' training before its first step if a checkpoint was the last one.

    The weights are loaded by then, also those that DeepSpeed and FSDP load into what they made of the model. To be
    added behind all other callbacks: they have begun, and can end.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise :class:`Finished` on all ranks alike, at the last step or beyond it."""
        if state.global_step >= state.max_steps > 0:
            raise Finished


def describe(step: int, last: int) -> str:
    """What is said of such a run.

    Args:
        step: of the checkpoint.
        last: step at which the flags of this run end it.
    """
    reached = f"step {step} of {last}" if step == last else f"step {step}, and these flags end at {last}"
    return f"complete: {reached}; nothing is trained, another --output_dir (OUTPUT of a recipe) starts anew"


def complete_history(state: Any, output_dir: Path) -> list[dict[str, Any]]:
    """The logs of a run, with those behind its last checkpoint if it ended then: they say how long it took.

    Args:
        state: of the checkpoint.
        output_dir: of the run, which holds a state where it ended.
    """
    path, known = output_dir / TRAINER_STATE_NAME, state.log_history
    try:
        ended = read_json(path)
    except (FileNotFoundError, ValueError):  # killed before, or while it was written
        return known
    logs: list[dict[str, Any]] = ended.get("log_history", [])
    return logs if ended.get("global_step") == state.global_step and logs[: len(known)] == known else known
