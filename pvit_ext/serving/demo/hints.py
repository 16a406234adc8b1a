"""What a LION checkpoint reads beside a question: the task, and tags of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pvit_ext.config import RegionConfig
from pvit_ext.serving.lion_fields import check_task, read_by, read_tags


@dataclass(frozen=True)
class Hints:
    """What the page offers beside the question.

    Args:
        tasks: names of the model's tasks; () for a model without adapters by task.
        by_question: the model chooses by the question where no task is said.
        tags: whether the model reads tags.
    """

    tasks: tuple[str, ...] = ()
    by_question: bool = False
    tags: bool = False

    @classmethod
    def of(cls, config: RegionConfig | None) -> Hints:
        """What a model reads, by its config."""
        tasks, tags = read_by(config)
        return cls(tags=tags) if tasks is None else cls(tasks.names, tasks.by_question, tags)

    def shown(self) -> dict[str, Any]:
        """As the page gets it."""
        return {"tasks": list(self.tasks), "by_question": self.by_question, "tags": self.tags}

    def read(self, request: dict[str, Any]) -> tuple[str | None, tuple[str, ...] | None]:
        """Task and tags of a request; None where it says none.

        Raises:
            ValueError: for what the model does not know, or has no use for.
        """
        task = request.get("task")
        check_task(task, self.tasks)
        return task, read_tags(request.get("tags"), self.tags)
