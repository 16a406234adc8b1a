"""Which adapters by task the records of a training file are for, looked at once before a run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pvit_ext.adapters.lion.tasks import UNSAID, Tasks
from pvit_ext.data.records import Records
from pvit_ext.data.scan import BadRecord


@dataclass
class TaskSurvey:
    """Counts of the records of a file by the task that each is of.

    The pass over the file has taken note of what each record says, so no record is read here but bad ones.

    Args:
        counts: by the name of each of the model's tasks, in its order.
        by_question: whose adapters the model chooses by the question.
        bad: records of a task that the model does not know.
    """

    counts: dict[str, int]
    by_question: int = 0
    bad: list[BadRecord] = field(default_factory=list)

    @classmethod
    def of(cls, records: Records, tasks: Tasks) -> TaskSurvey:
        """Count them.

        Args:
            records: of the file.
            tasks: of the model.
        """
        found, bad = cls(dict.fromkeys(tasks.names, 0)), dict[int, BadRecord]()
        said, has_regions = records.task_numbers, records.region_counts > 0
        for number, has in ((one >> 1, bool(one & 1)) for one in np.unique(said << 1 | has_regions).tolist()):
            here = (said == number) & (has_regions == has)
            asked = records.named_tasks[number] if number >= 0 else None
            if (problem := tasks.problem(asked, has)) is None:
                found._count(tasks, tasks.number(asked, has, "the records"), int(here.sum()))
                continue
            for one in here.nonzero()[0].tolist():
                location = records[one].location
                bad[one] = BadRecord(location, f"{location}: {problem}")
        found.bad = [bad[number] for number in sorted(bad)]
        return found

    def _count(self, tasks: Tasks, task: int, count: int) -> None:
        if task == UNSAID:
            self.by_question += count
        else:
            self.counts[tasks.names[task]] += count

    def __str__(self) -> str:
        counts = {**self.counts, "by the question": self.by_question} if self.by_question else self.counts
        return ", ".join(f"{name} {count:,}" for name, count in counts.items())
