"""The best checkpoint of a run, in transformers' own fields of ``trainer_state.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "eval_"
"""Prefix by which transformers' trackers know a measure of evaluation; ``eval_loss`` is shown as ``eval/loss``."""
MEASURES = ("accuracy", "loss")
"""What checkpoints are compared by: the first of them that was measured, unless the user says otherwise."""


@dataclass(frozen=True)
class Choice:
    """The measure that the user chose.

    Args:
        name: ``--metric_for_best_model``, one of :data:`MEASURES` with transformers' prefix or without, or None.
        greater: ``--greater_is_better``, or None, which is True for all but the loss.
    """

    name: str | None = None
    greater: bool | None = None

    @classmethod
    def of(cls, arguments: Any) -> Choice:
        """The choice in transformers' arguments.

        Raises:
            ValueError: for an unknown measure.
        """
        name = arguments.metric_for_best_model
        if name is not None and (name := name.removeprefix(PREFIX)) not in MEASURES:
            raise ValueError(f"--metric_for_best_model {name}: held-out records have {', '.join(MEASURES)}")
        return cls(name, arguments.greater_is_better)

    def measure(self, measures: Mapping[str, float]) -> str:
        """The one of ``measures`` that decides."""
        return PREFIX + (self.name or next(name for name in MEASURES if PREFIX + name in measures))


def measured(state: Any) -> dict[str, float] | None:
    """What was measured at a state's step, before or after a resume; None if nothing was."""
    entries = (entry for entry in reversed(state.log_history) if entry["step"] == state.global_step)
    entry = next((entry for entry in entries if f"{PREFIX}loss" in entry), None)
    return entry and {key: entry[key] for key in (PREFIX + name for name in MEASURES) if key in entry}


def describe(state: Any, choice: Choice) -> str:
    """What is said of the best checkpoint at the end of a run that has one."""
    last = next(entry for entry in reversed(state.log_history) if f"{PREFIX}loss" in entry)
    measure = choice.measure(last).removeprefix(PREFIX)
    return f"best: {state.best_model_checkpoint}, with {measure} {state.best_metric:.4f} on held-out records"


def note(state: Any, choice: Choice, measures: Mapping[str, float], folder: Path) -> None:
    """Name a checkpoint as the best, if it is better than those before.

    Args:
        state: of the run; it is in each checkpoint.
        choice: of the user.
        measures: at this step.
        folder: of the checkpoint.
    """
    key = choice.measure(measures)
    greater, value = choice.greater, measures[key]
    if greater is None:
        greater = key != f"{PREFIX}loss"
    if state.best_metric is None or (value > state.best_metric if greater else value < state.best_metric):
        state.best_metric, state.best_model_checkpoint = value, str(folder)
        if hasattr(state, "best_global_step"):  # transformers 4.50 and later
            state.best_global_step = state.global_step
