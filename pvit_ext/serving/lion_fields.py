"""The task and tags that a request says beside its question: what the model that is served reads of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import RegionConfig
from pvit_ext.data.tags.tags import clean_tags
from pvit_ext.serving.api_error import wrong

if TYPE_CHECKING:
    from pvit_ext.serving.chat_request import ChatRequest


def read_by(config: RegionConfig | None) -> tuple[Tasks | None, bool]:
    """The tasks of a model, if it has adapters by task, and whether it reads tags.

    Args:
        config: of the model's regions; None for a model without.
    """
    return (None, False) if config is None else (Tasks.of(config), config.lion_tags is not None)


def check_task(task: object, known: Sequence[str]) -> None:
    """Refuse a task that the model does not have.

    Args:
        task: None where none is said.
        known: the model's tasks; none for a model without adapters by task.

    Raises:
        ValueError: saying which it has.
    """
    if task is None or task in known:
        return
    if not known:
        raise ValueError("the model has no adapters by task; leave it out")
    raise ValueError(f"the model has the tasks {', '.join(known)}, got {task!r:.60}")


def read_tags(tags: Any, are_read: bool) -> tuple[str, ...] | None:
    """Tags as the model's sentence lists them; None where none are said.

    Args:
        tags: a list of texts, or None.
        are_read: whether the model reads tags.

    Raises:
        ValueError: for a model that reads none, and for what is no list of tags.
    """
    if tags is None:
        return None
    if not are_read:
        raise ValueError("the model reads no tags; leave them out")
    return tuple(clean_tags(tags))


def check_lion_fields(request: ChatRequest, config: RegionConfig | None) -> None:
    """Refuse what the model has no use for; the tags are cleaned where the prompt is made.

    Args:
        request: checked field by field.
        config: of the model's regions; None for a model without.

    Raises:
        ApiError: 400 naming the field.
    """
    tasks, are_read = read_by(config)
    try:
        check_task(request.lion_task, () if tasks is None else tasks.names)
    except ValueError as error:
        raise wrong("lion_task", str(error)) from error
    try:
        read_tags(request.tags, are_read)
    except ValueError as error:
        raise wrong("tags", str(error)) from error
