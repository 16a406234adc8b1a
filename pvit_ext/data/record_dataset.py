"""Records as a dataset of torch's, for any host: a bad one is replaced, and chance depends on the run's seed alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pvit_ext.config import RECORD_KEY
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.data.records import BadRecord, Record, RecordError, Records
from pvit_ext.data.schema import images_of
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.data.tags.survey import TagSurvey
from pvit_ext.data.tags.tags import HINT_STYLE, NOT_IN_ANSWERS, tags_of, with_tags
from pvit_ext.data.task_survey import TaskSurvey
from pvit_ext.encoders.own_tower import StoredMaps
from pvit_ext.prompt import HINT_PLACEHOLDER
from pvit_ext.regions.image import load_image, reading
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.processor import RegionProcessor
from pvit_ext.tokens.routing_inputs import routing_inputs

_READ = "--region_lion_tags hint (or plain)"
_ADAPTERS = "--region_lion_adapters 64"
_WRITE = "`pvit-ext data tags` writes them"


def check_tag_flags(style: str | None, noise: TagNoise, records: Records) -> None:
    """Refuse what flags and the index of a file tell, before a model is there.

    Args:
        style: how the model reads tags; None if it reads none.
        noise: what the run makes of them.
        records: of the file.

    Raises:
        ValueError: for noise where the model reads no tags, and for a file without any where it does.
    """
    if style is None and noise.changes:
        raise ValueError(f"--tag_drop, --tag_wrong and --tag_shuffle change tags; the model reads none: {_READ}")
    if style is not None and not records.tagged.any():
        raise ValueError(f"the model reads tags, and no record has any ({records.summary}); {_WRITE}")


class RecordDataset(Dataset[dict[str, Any]]):
    """Items made of records; a host says how, in :meth:`_item`.

    Attributes:
        records: of the data file.
        bad_records: of the run.
        seed: of the run; box jitter is a function of it, the epoch and the sample.
        region_processor: what prepares a sample's regions; it runs in the data workers.
        tokenizer: of the model.
        stored_vision: what the model's vision tower made of the images before the run, where a cache has it.
        tag_noise: what becomes of a record's tags, for a model that reads them; another draw in each epoch.
    """

    seed: int = 0
    tag_noise: TagNoise = TagNoise()
    region_processor: RegionProcessor
    tokenizer: Any
    stored_vision: StoredVision | None = None

    def __init__(self, records: Records, bad_records: BadRecords) -> None:
        self.records, self.bad_records = records, bad_records

    def use_stored(self, maps: StoredMaps | None, vision: StoredVision | None) -> None:
        """Read what towers made of the images before, or do not.

        Args:
            maps: of the region encoder's own tower.
            vision: of the model's vision tower.
        """
        self.region_processor = replace(self.region_processor, stored_maps=maps)
        self.stored_vision = vision

    def use_tags(self, noise: TagNoise) -> str | None:
        """Look through the records' tags, where the model reads them; returns a sentence about them for the user.

        Args:
            noise: what the run makes of them.

        Raises:
            ValueError: as :func:`check_tag_flags`, for a file of empty lists, and for wrong tags where all records
                share one.
            RecordError: as :meth:`survey_tags`.
        """
        check_tag_flags(self.region_processor.tag_style, noise, self.records)
        if self.region_processor.tag_style is None:
            if not self.records.tagged.any():
                return None
            return f"the records have tags, and the model does not read them; for one that does: {_READ}"
        survey = self.survey_tags()
        if not survey.tagged:
            raise ValueError(f"the model reads tags, and no record has any ({survey}); {_WRITE}")
        if noise.wrong and len(survey.vocabulary) < 2:
            raise ValueError(
                f"--tag_wrong {noise.wrong:g} draws from the tags of all records, and they share one, "
                f"{survey.vocabulary[0]!r}: no tag is ever wrong; leave the flag out, or give records with other tags"
            )
        self.tag_noise = replace(noise, vocabulary=survey.vocabulary)
        return f"tags of images ({self.region_processor.tag_style}): {survey}"

    def survey_tags(self) -> TagSurvey:
        """Look through the records' tags, for a model that reads them.

        Raises:
            RecordError: for tags that are none and for ``<hint>`` in an answer, if there are more such records than
                ``--max_bad_records`` allows.
        """
        survey = TagSurvey.of(self.records, self._special)
        self.bad_records.add(*survey.bad, *self._hints_in_answers())
        return survey

    def _hints_in_answers(self) -> list[BadRecord]:
        """Records that a model with a hint vector cannot learn."""
        if self.region_processor.tag_style != HINT_STYLE:
            return []
        places = [self.records[number].location for number in self.records.hint_in_answer.nonzero()[0].tolist()]
        return [BadRecord(place, f"{place}: {NOT_IN_ANSWERS}") for place in places]

    def use_tasks(self) -> str | None:
        """Look at the task of each record, where the model has adapters by task; returns a sentence for the user.

        Raises:
            RecordError: for tasks that the model does not know, if there are more such records than
                ``--max_bad_records`` allows.
        """
        if (tasks := self.region_processor.tasks) is None:
            if not self.records.named_tasks:
                return None
            return (
                f"the records say tasks ({RECORD_KEY!r}), and the model has no adapters by task; for one: {_ADAPTERS}"
            )
        survey = TaskSurvey.of(self.records, tasks)
        self.bad_records.add(*survey.bad)
        return f"tasks: {survey}"

    def tagged(self, record: Record, draw: np.random.Generator) -> list[str]:
        """The turns of a record as text, the first question behind the tags of its image where the model reads them.

        Raises:
            RecordError: for tags that are none, and for ``<hint>`` in an answer.
        """
        texts = [turn["value"] for turn in record.data["conversations"]]
        style = self.region_processor.tag_style
        self.region_processor.check_placeholders(texts, record.location)
        if style is None:
            return texts
        if style == HINT_STYLE and any(HINT_PLACEHOLDER in answer for answer in texts[1::2]):
            raise RecordError(f"{record.location}: {NOT_IN_ANSWERS}")
        try:
            tags = tags_of(record.data, self._special)
        except ValueError as error:
            raise RecordError(f"{record.location}: {error}") from error
        if tags is None:
            return texts
        return [with_tags(texts[0], self.tag_noise(tags, draw), style), *texts[1:]]

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self.tokenizer)

    def images(self, record: Record) -> list[Image.Image]:
        """The upright images of a record; blanks of their sizes where nothing looks at their pixels.

        Raises:
            RegionError: naming the record, for an image that cannot be read.
        """
        stored, names = self.stored_vision, images_of(record.data)
        if stored is not None and not self.region_processor.needs_pixels:
            return [stored.blank(name) for name in names]
        with reading(record.location):
            images = [load_image(file) for file in record.image_files]
        return images if stored is None else [stored.mark(*pair) for pair in zip(images, names, strict=True)]

    def _task(self, record: Record, has_regions: bool) -> dict[str, Tensor]:
        """What the record's adapters are chosen by, as a part of its item; nothing for a model without any by task."""
        asked = record.data.get(RECORD_KEY)
        task = self.region_processor.task(asked, has_regions, record.location)
        questions = [turn["value"] for turn in record.data["conversations"][::2]]
        return routing_inputs(self.region_processor.tasks, [task], [questions], self.tokenizer)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def positions_per_region(self) -> int:
        """S, positions of the prompt that one region takes; a host knows how many."""
        return 1

    @property
    def positions_behind_image(self) -> int:
        """Positions of the prompt behind an image's own; a host knows how many."""
        return 0

    @property
    def modality_lengths(self) -> list[int]:
        """The words of each record as LLaVA counts them, negative without an image; a region is its positions."""
        lengths: list[int] = (np.sign(self.records.words) * self._text_lengths()).tolist()
        return lengths

    @property
    def lengths(self) -> list[int]:
        """The words of each record as LLaVA counts them, and 128 for an image; a region is its positions."""
        image = 128 + self.positions_behind_image
        lengths: list[int] = (self._text_lengths() + image * (self.records.words > 0)).tolist()
        return lengths

    def _text_lengths(self) -> NDArray[np.int64]:
        """Words, where ``<region>`` is one, and the further positions of each region; int64 (N,), 1 or more."""
        return np.abs(self.records.words) + self.records.region_counts * max(self.positions_per_region - 1, 0)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """The item of a record.

        A record that turns out bad is replaced by the next good one, as at start-up: the same on every rank, in every
        epoch and after a resume.

        Args:
            index: of the sample, in epoch 0, or (epoch, index).

        Raises:
            IndexError: beyond the last; without it `for item in dataset` would begin anew and never end.
            RecordError, RegionError: naming file and line; with the list of all when they are more than
                ``--max_bad_records`` allows.
        """
        epoch, index = index if isinstance(index, tuple) else (0, index)
        count = len(self.records)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of {count}")
        index %= count
        for record in (self.records[number % count] for number in range(index, index + count)):
            try:
                return self._item(record, np.random.default_rng((self.seed, epoch, index)))
            except (RecordError, RegionError) as error:
                if not self.bad_records.limit:
                    raise
                self.bad_records.add(BadRecord(record.location, str(error)))
        raise RecordError(f"none of {count} records can be used, the last is {record.location}")

    def _item(self, record: Record, draw: np.random.Generator) -> dict[str, Any]:
        """The item of one record.

        Args:
            record: of the file.
            draw: for augmentation.

        Raises:
            RecordError, RegionError: for a record that cannot be used.
        """
        raise NotImplementedError
