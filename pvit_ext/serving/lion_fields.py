"""``lion_task`` and ``tags`` of a request, as the records of our data files name them, for the model that is served."""

from __future__ import annotations

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import RegionConfig
from pvit_ext.data.tags.tags import clean_tags
from pvit_ext.serving.api_error import wrong
from pvit_ext.serving.chat_request import ChatRequest


def check_lion_fields(request: ChatRequest, config: RegionConfig | None) -> None:
    """Refuse what the model has no use for.

    Args:
        request: checked field by field.
        config: of the model's regions; None for a model without.

    Raises:
        ApiError: 400 naming the field.
    """
    if request.lion_task is not None:
        tasks = None if config is None else Tasks.of(config)
        if tasks is None:
            raise wrong("lion_task", "the model has no adapters by task; leave it out")
        if request.lion_task not in tasks.names:
            raise wrong("lion_task", f"the model has the tasks {', '.join(tasks.names)}, got {request.lion_task!r:.60}")
    if request.tags is not None:
        if config is None or not config.lion_tags:
            raise wrong("tags", "the model reads no tags; leave it out")
        try:
            clean_tags(request.tags)
        except ValueError as error:
            raise wrong("tags", str(error)) from error
