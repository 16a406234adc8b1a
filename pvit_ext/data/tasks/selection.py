"""Which tasks a conversion asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pvit_ext.data.tasks.base import TASKS, Task
from pvit_ext.data.tasks.box_text import BoxText
from pvit_ext.data.tasks.options import TaskOptions

if TYPE_CHECKING:
    from pvit_ext.data.convert.report import Report

DEFAULT, ALL = "basic", "all"


@dataclass(frozen=True)
class Selection:
    """Tasks in the order in which they ask.

    Args:
        tasks: one or more.
        demanded: those without which a conversion fails: what was named, not what ``all`` brought along.
    """

    tasks: tuple[Task, ...]
    demanded: frozenset[str]

    def check(self, options: TaskOptions) -> None:
        """Refuse options that no task heeds.

        Raises:
            ValueError: naming the tasks that do.
        """
        given = {"negatives": options.negatives, "box_text": options.box_text is not BoxText.FRACTIONS}
        for name in (name for name, is_given in given.items() if is_given):
            if not any(name in task.heeds for task in self.tasks):
                known = ", ".join(one for one in TASKS.names() if name in TASKS.require(one).heeds)
                own = ", ".join(task.name for task in self.tasks)
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} changes nothing for --task {own}; it goes with {known}")

    def idle(self, report: Report, closed: bool) -> list[str]:
        """Which tasks asked nothing, and what the source has, in a sentence; none where all asked something.

        Args:
            report: of the conversion.
            closed: the source's labels are a closed list of classes.

        Raises:
            ValueError: for one that was named.
        """
        idle = [task for task in self.tasks if task.name != DEFAULT and not report.counts[f"records of {task.name}"]]
        has = f"{report.source} has {report.holds}" + ("" if closed else "; its labels are no closed list of classes")
        for task in idle:
            if task.name in self.demanded:
                raise ValueError(f"--task {task.name} asks nothing: it needs {task.needs}. {has}. Leave the task out")
        return [f"ask nothing: {', '.join(task.name for task in idle)}. {has}; see --tasks"] if idle else []


def select_tasks(words: Sequence[str]) -> Selection:
    """The tasks of ``--task NAME[,NAME]``, each once.

    Args:
        words: names, or lists of them with commas; ``all`` stands for every task but the default one.

    Raises:
        ValueError: for none, an unknown one, or the default one beside others, whose questions it repeats.
    """
    names = [name.strip() for word in words for name in word.split(",")]
    if not all(names):
        raise ValueError(f"--task takes NAME or NAME,NAME, got {','.join(words)!r}; known: {', '.join(TASKS.names())}")
    demanded = frozenset(names) - {ALL}
    every = [name for name in TASKS.names() if name != DEFAULT]
    names = list(dict.fromkeys(found for name in names for found in (every if name == ALL else [name])))
    if DEFAULT in names and len(names) > 1:
        raise ValueError(f"--task {DEFAULT} asks what other tasks ask too: name it alone, or leave it out")
    return Selection(tuple(TASKS.require(name)() for name in names), demanded)
