"""Optimizer steps of a run, as transformers' Trainer counts them, and the hours they take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import transformers

from pvit_ext.files import read_json
from pvit_ext.training.sampler import samples_in_full_steps

_RATES = ("samples_per_second", "tokens_per_second")


@dataclass(frozen=True)
class Schedule:
    """How long a run goes.

    Args:
        samples: in an epoch.
        global_batch: samples of a step, all GPUs together.
        steps: of the optimizer.
        epochs: as asked for; with ``--max_steps`` those that the steps take.
    """

    samples: int
    global_batch: int
    steps: int
    epochs: float

    def seconds(self, samples_per_second: float) -> float:
        """Seconds of the training itself, without loading and saving.

        Args:
            samples_per_second: all GPUs together.
        """
        return self.epochs * self.samples / samples_per_second

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def check_batch(training: Any, deepspeed: dict[str, Any] | None, gpus: int, wanted: int | None) -> int:
    """The samples of a step, all GPUs together.

    Args:
        training: flags of the run.
        deepspeed: config of DeepSpeed, None without it.
        gpus: all together.
        wanted: the number that it should be, if any.

    Raises:
        ValueError: when the flags give another number than is wanted, or than DeepSpeed's config names.
    """
    micro, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    batch = gpus * micro * accumulation
    product = f"{gpus} GPUs x --per_device_train_batch_size {micro} x --gradient_accumulation_steps {accumulation}"
    named = (deepspeed or {}).get("train_batch_size", "auto")
    given = {"--global-batch": wanted, "the DeepSpeed config's train_batch_size": None if named == "auto" else named}
    for name, number in given.items():
        if number is None or number == batch:
            continue
        steps, rest = divmod(number, gpus * micro)
        advice = (
            f"it does not divide by {gpus} x {micro}: change one of them"
            if rest or not steps
            else f"give --gradient_accumulation_steps {steps}"
        )
        raise ValueError(f"{product} is a batch of {batch}, {name} says {number}: {advice}")
    return batch


def count_steps(training: Any, samples: int, gpus: int) -> Schedule:
    """The steps of a run.

    Args:
        training: its flags.
        samples: in an epoch.
        gpus: all together.

    Raises:
        ValueError: when an epoch fills no batch.
    """
    micro, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    drop, batch = training.dataloader_drop_last, gpus * micro * accumulation
    # From transformers 5 on what is over at the end makes a step too; before, pvit-ext leaves out what fills none, so
    # that resuming is exact.
    counts_last_step = hasattr(transformers.Trainer, "set_initial_training_values")
    run = samples if counts_last_step else samples_in_full_steps(samples, gpus * micro, accumulation, drop) or samples
    batches = run // micro if drop else math.ceil(run / micro)
    of_each = batches // gpus if drop else math.ceil(batches / gpus)
    if not of_each:
        raise ValueError(f"{samples} samples fill no batch of {gpus} GPUs x {micro} with --dataloader_drop_last True")
    per_epoch = math.ceil(of_each / accumulation) if counts_last_step else max(of_each // accumulation, 1)
    if training.max_steps > 0:
        return Schedule(samples, batch, training.max_steps, training.max_steps / per_epoch)
    return Schedule(samples, batch, math.ceil(training.num_train_epochs * per_epoch), training.num_train_epochs)


def measured_rates(folder: str) -> dict[str, float]:
    """The last throughput that a run logged, all its GPUs together.

    Args:
        folder: ``--output_dir`` of the run, or one of its checkpoints.

    Raises:
        FileNotFoundError: for a folder of no run.
        ValueError: for a run that logged none.
    """
    path = Path(folder, "trainer_state.json")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no trainer_state.json: name the --output_dir of a run, or a checkpoint")
    logs = read_json(path).get("log_history", [])
    found = [log for log in logs if all(name in log for name in _RATES)]
    if not found:
        raise ValueError(
            f"{path} has no {' and '.join(_RATES)}: the run ended before its first --logging_steps, or a pvit-ext that "
            "logged them with --report_to alone made it; give --samples-per-second X, or measure again"
        )
    return {name: float(found[-1][name]) for name in _RATES}
