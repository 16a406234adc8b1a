"""The flags of held-out records, and the best checkpoint by them, in transformers' fields of ``trainer_state.json``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.training.flag_pairs import changed_flags

PREFIX = "eval_"
"""Prefix by which transformers' trackers know a measure of evaluation; ``eval_loss`` is shown as ``eval/loss``."""
MEASURES = ("accuracy", "loss")
"""What checkpoints are compared by: the first of them that was measured, unless the user says otherwise."""
_OF_HELD_OUT = ("region_eval_samples", "region_eval_records", "region_eval_steps")
_OF_BEST = ("metric_for_best_model", "greater_is_better")
_EVALUATE = ("eval_strategy", "evaluation_strategy")
"""transformers' flag, new and before 4.41."""
_WITH_EVALUATION = ("eval_on_start", "do_eval", "eval_steps")
"""What goes with it, and is neither None nor False where it is given; transformers sets some of them by that flag."""
logger = logging.getLogger(__name__)


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


def check_held_out(arguments: Any, has_tables: bool) -> None:
    """Check the flags of held-out records and of the best checkpoint by them.

    Args:
        arguments: RegionTrainingArguments.
        has_tables: a tracker of the run shows tables.

    Raises:
        ValueError: for a count below 1, an unknown measure of the best checkpoint, flags of held-out records in a run
            that has none, and what only transformers' own evaluation loop would do.
    """
    _refuse_evaluation(arguments)
    for name in _OF_HELD_OUT:
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ValueError(f"--{name} {value}: give a number from 1 on")
    given = changed_flags(arguments, *_OF_HELD_OUT)
    if arguments.region_eval_data is not None:
        Choice.of(arguments)
        if "region_eval_samples" in given and not has_tables:
            count = arguments.region_eval_samples
            logger.warning(
                "without effect, because no tracker of --report_to has tables: --region_eval_samples %s", count
            )
    elif given := given + changed_flags(arguments, *_OF_BEST):
        raise ValueError(
            f"--{given[0]} {getattr(arguments, given[0])}: this run has no held-out records, give --region_eval_data "
            "FILE, or drop the flag"
        )


def _refuse_evaluation(arguments: Any) -> None:
    """Refuse flags of transformers' own evaluation: its Trainer gets no records for it, and fails once all is loaded.

    The schedules that follow a measure need such a flag too, which transformers says.
    """
    used = {name: value for name in _EVALUATE if (value := _word(arguments, name)) not in ("", "no")}
    used |= {"save_strategy": "best"} if _word(arguments, "save_strategy") == "best" else {}
    used |= {"load_best_model_at_end": "True"} if arguments.load_best_model_at_end else {}
    used |= {name: value for name in _WITH_EVALUATION if (value := _word(arguments, name)) not in ("", "False")}
    for name, value in used.items():
        raise ValueError(
            f"--{name} {value}: transformers' own evaluation, which this is for, is not used here; drop the flag "
            "(--region_eval_data FILE measures held-out records, --region_eval_steps N measures every N steps, and "
            "trainer_state.json names the best checkpoint)"
        )


def _word(arguments: Any, name: str) -> str:
    """A flag's value as it is written; "" where there is no such flag."""
    value = getattr(arguments, name, None)
    return "" if value is None else str(getattr(value, "value", value))


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
