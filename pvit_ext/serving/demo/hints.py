"""What a LION checkpoint reads beside a question: the task, and tags of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import RegionConfig
from pvit_ext.data.tags.tags import clean_tags


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
        if config is None:
            return cls()
        tasks = Tasks.of(config)
        names, by_question = ((), False) if tasks is None else (tasks.names, tasks.by_question)
        return cls(names, by_question, config.lion_tags is not None)

    def shown(self) -> dict[str, Any]:
        """As the page gets it."""
        return {"tasks": list(self.tasks), "by_question": self.by_question, "tags": self.tags}

    def read(self, request: dict[str, Any]) -> tuple[str | None, tuple[str, ...] | None]:
        """Task and tags of a request; None where it says none.

        Raises:
            ValueError: for what the model does not know, or has no use for.
        """
        task, tags = request.get("task"), request.get("tags")
        if task is not None and task not in self.tasks:
            raise ValueError(f"the task {task!r} is none of the model's: {', '.join(self.tasks) or 'it has none'}")
        if tags is not None and not self.tags:
            raise ValueError("this model reads no tags; leave them out")
        return task, None if tags is None else tuple(clean_tags(tags))
