"""What samples say to LION's parts, checked before a checkpoint is loaded to answer them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import RegionConfig
from pvit_ext.data.records import RecordError
from pvit_ext.data.tags.tags import HINT_STYLE, NOT_IN_ANSWERS, check_image, clean_tags
from pvit_ext.evaluation.answering import task_of
from pvit_ext.evaluation.sample import Sample
from pvit_ext.prompt import HINT_PLACEHOLDER


def check_lion(samples: Sequence[Sample], config: RegionConfig | None, shows_regions: bool) -> None:
    """Refuse samples of a task that the model does not know, with tags that are none, or a hint in an earlier answer.

    Args:
        samples: that are asked.
        config: of the checkpoint's region modules; what it has no part for is not looked at.
        shows_regions: whether the arm gives the model regions.

    Raises:
        RecordError: naming all of them.
    """
    if config is not None and (problems := list(_problems(samples, config, shows_regions))):
        raise RecordError(*problems)


def _problems(samples: Sequence[Sample], config: RegionConfig, shows_regions: bool) -> Iterator[str]:
    tasks = Tasks.of(config)
    for sample in samples:
        if tasks is not None:
            asked = task_of(sample.adapters, sample.adapters_if_known, tasks)
            try:
                tasks.number(asked, shows_regions and bool(sample.specs), sample.name)
            except ValueError as error:
                yield str(error)
        if config.lion_tags and sample.tags is not None:
            try:
                check_image(bool(sample.images))
                clean_tags(sample.tags)
            except ValueError as error:
                yield f"{sample.name}: {error}"
        if config.lion_tags == HINT_STYLE and any(HINT_PLACEHOLDER in answer for _, answer in sample.history):
            yield f"{sample.name}: {NOT_IN_ANSWERS}"
