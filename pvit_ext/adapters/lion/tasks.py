"""The task of a sample, by which its adapters are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pvit_ext.config import RECORD_KEY, RegionConfig, task_names
from pvit_ext.regions.region import RegionError

REGION, IMAGE = "region", "image"
"""Task of a sample with regions, and of one without, unless somebody says another."""
MIXED = "mixed"
"""No task's name: it stands for all of them in the name of a stage."""
TASKS = "tasks"
"""Key of an item, and keyword of a model: the task of each sample."""
NO_ADAPTERS = "tasks were given, but the model has no adapters by task: RegionConfig(lion_adapters=64)"
UNSAID = -1
"""Number of the task of a sample whose adapters the model chooses by its question."""


@dataclass(frozen=True)
class Tasks:
    """The tasks of a model, in the order of its adapters.

    Args:
        names: of them.
        by_question: the model chooses by the question where nobody says the task.
        alone: the task that is taken there instead, in a stage that trains no other.
    """

    names: tuple[str, ...]
    by_question: bool = False
    alone: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> Tasks:
        """The tasks that a config names.

        Args:
            text: names with commas between; None for the default.

        Raises:
            ValueError: for none, an empty name, one that is there twice, or :data:`MIXED`.
        """
        names = task_names(text)
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"lion_tasks is {text!r}: give different names with commas between, such as region,image")
        if MIXED in names:
            raise ValueError(f"lion_tasks is {text!r}: {MIXED!r} is the stage of all tasks; give the task another name")
        return cls(names)

    @classmethod
    def of(cls, config: RegionConfig | None) -> Tasks | None:
        """The tasks of a model; None where it has no adapters by task, or no region modules at all."""
        if config is None or not config.lion_adapters:
            return None
        return cls(cls.parse(config.lion_tasks).names, config.lion_routing == "question")

    def said(self, asked: str | None) -> str | None:
        """The task that is said of a sample, by itself or by its stage; None where its regions or the model tell.

        Args:
            asked: name of the task that a record or query says.
        """
        return self.alone if asked is None and self.by_question else asked

    def number(self, asked: str | None, has_regions: bool, name: str) -> int:
        """Number of a sample's task; :data:`UNSAID` where the model chooses by the question.

        Args:
            asked: name of the task that a record or query says; None for the usual one.
            has_regions: whether the sample has any.
            name: of the sample, for messages.

        Raises:
            ValueError: naming the sample, for a task that the model does not know.
        """
        if (problem := self.problem(asked, has_regions)) is not None:
            raise ValueError(f"{name}: {problem}")
        asked = self.said(asked)
        if asked is None and self.by_question:
            return UNSAID
        return self.names.index(_usual(has_regions) if asked is None else asked)

    def problem(self, asked: str | None, has_regions: bool) -> str | None:
        """Why a sample is of no task of the model's, None if it is of one; arguments as of :meth:`number`."""
        known = ", ".join(self.names)
        if asked is not None:
            return None if asked in self.names else f"the task {asked!r} is none of the model's: {known}"
        if self.by_question or (usual := _usual(has_regions)) in self.names:
            return None
        return (
            f"a sample {'with' if has_regions else 'without'} regions is of the task {usual!r}, and the model has "
            f"{known}: say which, by the key {RECORD_KEY!r} of a record, Query(task=...) or tasks=[...]"
        )

    def numbers(
        self,
        tasks: Tensor | Sequence[str | int | None] | None,
        has_regions: Sequence[bool | None],
        continued: bool = False,
    ) -> Tensor:
        """Numbers (B,) int64 of a batch's tasks, :data:`UNSAID` where the model chooses by the question.

        Args:
            tasks: names or numbers, one for each sample; None for the usual ones, of all samples or of one.
            has_regions: whether each sample has any; None where that cannot be seen.
            continued: the batch goes on from a cache, and does not show whether its beginning had regions.

        Raises:
            RegionError: for an unknown task, too few, and what is no task at all.
        """
        if isinstance(tasks, Tensor) and tasks.is_floating_point():
            raise RegionError(f"tasks are numbers of {tasks.dtype}: give whole ones, or weights (B, {len(self.names)})")
        given = [None] * len(has_regions) if tasks is None else tasks.tolist() if hasattr(tasks, "tolist") else tasks
        if isinstance(given, str) or not isinstance(given, Sequence):
            kind = "the text " if isinstance(given, str) else ""
            raise RegionError(f"tasks is {kind}{tasks!r}: give a list of names or numbers, one for each sample")
        if len(given) != len(has_regions):
            raise RegionError(f"tasks holds {len(given)}, the batch {len(has_regions)} sample(s)")
        if continued and None in given:
            raise RegionError("the batch goes on from a cache: pass tasks=, as with its beginning")
        pairs = enumerate(zip(given, has_regions, strict=True))
        return torch.tensor([self._number(one, has, f"sample {index}") for index, (one, has) in pairs])

    def _number(self, task: Any, has_regions: bool | None, name: str) -> int:
        if task is None and has_regions is None and not self.by_question:
            raise RegionError(f"{name}: inputs_embeds do not show whether it has regions: pass tasks=, a name for each")
        if task is None or isinstance(task, str):
            return self.number(task, bool(has_regions), name)
        known = f"the model has {len(self.names)}: {', '.join(self.names)}"
        if isinstance(task, bool) or not isinstance(task, Integral):
            raise RegionError(f"{name}: the task {task!r} is neither a name nor a whole number, {known}")
        if not (UNSAID if self.by_question else 0) <= int(task) < len(self.names):
            raise RegionError(f"{name}: task number {task}, {known}")
        return int(task)

    def check_weights(self, weights: Tensor, samples: int, continued: bool) -> None:
        """Refuse weights of gates that are none.

        Args:
            weights: (B, T).
            samples: B, of the batch.
            continued: the batch goes on from a cache, and values were looked at with its beginning: each look waits for
                a device.

        Raises:
            RegionError: for another shape or type, and for values that are not finite.
        """
        wanted = samples, len(self.names)
        if tuple(weights.shape) != wanted or not weights.is_floating_point():
            raise RegionError(
                f"tasks of shape {tuple(weights.shape)}, the model has {len(self.names)}: {', '.join(self.names)}; "
                f"give a name or number for each of {samples} sample(s), or weights {wanted} that are no whole numbers"
            )
        if not continued and has_values(weights) and not bool(weights.isfinite().all()):
            raise RegionError(f"tasks has weights that are not finite: {weights.tolist()}; give such as 0.0 and 1.0")

    def mix(self, numbers: Tensor) -> Tensor:
        """Numbers (B,) -> weights (B, T) of each task's gates; any for one that was not said."""
        # one_hot asks for the largest number, which a plan's fake tensors do not have in torch 2.0
        return torch.eye(len(self.names), device=numbers.device)[numbers.clamp(min=0)]


def _usual(has_regions: bool) -> str:
    return REGION if has_regions else IMAGE


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor's values can be looked at; those of a plan's fake tensors cannot."""
    return type(tensor) is Tensor


def any_task(model: Any, samples: int) -> dict[str, Tensor]:
    """The argument of a model's ``forward`` for samples whose task does not matter; none for one without adapters.

    Args:
        model: of either host.
        samples: of the batch.
    """
    known = Tasks.of(getattr(model, "region_config", None))
    return {} if known is None else {TASKS: known.mix(torch.zeros(samples, dtype=torch.long))}


def mix_of(
    config: RegionConfig | None,
    tasks: Tensor | Sequence[str | int | None] | None,
    has_regions: Sequence[bool | None],
    continued: bool = False,
    by_question: Callable[[], Tensor] | None = None,
) -> Tensor | None:
    """Weights (B, T) of each task's gates for a batch; None for a model without adapters.

    Args:
        config: of the model.
        tasks: names or numbers, one for each sample, or such weights; None for the usual ones, of all or of one.
        has_regions: whether each sample has any; None where that cannot be seen.
        continued: the batch goes on from a cache.
        by_question: gives the weights (B, T) that a model's router chooses; None without a router or questions.

    Raises:
        RegionError: for tasks that the model does not know, too few, or any for a model without adapters, and for one
            that a router would have to choose without questions.
    """
    known = Tasks.of(config)
    if known is None:
        if tasks is not None:
            raise RegionError(NO_ADAPTERS)
        return None
    if isinstance(tasks, Tensor) and tasks.ndim == 2:
        known.check_weights(tasks, len(has_regions), continued)
        return tasks
    numbers = known.numbers(tasks, has_regions, continued)
    if by_question is None:
        if known.by_question and bool((numbers < 0).any()):
            raise RegionError(
                "the model chooses its adapters by the question: pass questions=, or tasks= for each sample"
            )
        return known.mix(numbers)
    chosen = by_question()  # also where all tasks are said: under ZeRO every rank has to run every module
    return torch.where(numbers.to(chosen.device)[:, None] < 0, chosen, known.mix(numbers).to(chosen))
