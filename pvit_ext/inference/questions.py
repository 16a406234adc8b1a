"""Questions of a file: flat ones, or records of conversations whose last question is asked."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvit_ext.config import RECORD_KEY
from pvit_ext.data.image_files import path_of, short
from pvit_ext.data.json_records import read_json_records
from pvit_ext.data.records import Record
from pvit_ext.data.scan import BadRecord, name_of
from pvit_ext.data.schema import Spec, images_of, parse_record
from pvit_ext.data.tags.tags import TAGS_KEY, tags_of
from pvit_ext.data.unread import meant_key
from pvit_ext.prompt import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER
from pvit_ext.regions.region import Region
from pvit_ext.tokens.query import Query

logger = logging.getLogger(__name__)

_EXAMPLE = '{"id": "1", "image": "a.jpg", "question": "What is <region>?", "regions": [[10, 20, 200, 300]]}'
_OWN = {"question", "history", "choices", "conversations"}
_FLAT = ("id", "image", "question", "regions", "history", "choices", TAGS_KEY, RECORD_KEY)
_TURNS = '"history" is a list of [question, answer]'


@dataclass(frozen=True)
class Question:
    """One question of a run.

    Args:
        id: its answer is kept under it.
        images: paths.
        text: with one ``<region>`` for each region that is not in ``history``.
        specs: regions, or masks that are still to be read, in the order of their placeholders.
        folder: where mask files are looked for.
        history: earlier turns as (question, answer).
        choices: texts, of which the likeliest is the answer; none where it is written freely.
        location: file, line and id, for messages.
        about: what the answer's line repeats, in plain JSON types.
        tags: of the images, for a model that reads them.
        task: see :class:`~pvit_ext.Query`.
    """

    id: str
    images: tuple[str, ...]
    text: str
    specs: tuple[Spec, ...] = ()
    folder: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()
    location: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] | None = None
    task: str | None = None

    def query(self) -> Query:
        """As ``ask`` takes it; masks are read now.

        Raises:
            RegionError: for a mask that cannot be read.
        """
        regions: list[Region] = Record({}, self.specs, self.location, self.folder).regions
        return Query(list(self.images), self.text, regions, self.history, self.task, self.tags)

    @property
    def mark(self) -> str:
        """Tells one question from another of the same id; images count by their names."""
        images = [image.removeprefix(f"{self.folder}/") for image in self.images]
        asked: list[Any] = [images, self.text, [repr(spec) for spec in self.specs], self.history, self.choices]
        asked += [] if self.tags is None else [self.tags]
        asked += [] if self.task is None else [{RECORD_KEY: self.task}]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]


def read_questions(path: Path, folder: Path, choices: Sequence[str] = ()) -> tuple[list[Question], list[BadRecord]]:
    """The questions of a file, and what is wrong with the others; keys of flat ones that nothing reads are logged.

    Args:
        path: JSON Lines, or a JSON array.
        folder: of the images and masks.
        choices: of questions that bring none of their own.

    Raises:
        ValueError: for an id that is given twice, with both places.
    """
    found: list[Question] = []
    bad: list[BadRecord] = []
    unread: Counter[str] = Counter()
    for one in read_json_records(path):
        unread.update(_unread_keys(one.value))
        location = name_of(path.name, one.line, one.value)
        try:
            found.append(question_of(one.value, location, folder, choices))
        except ValueError as error:
            bad.append(BadRecord(location, f"{location}: {error}"))
    if unread:
        keys = ", ".join(f"{key!r} ({count} question{'s' * (count > 1)})" for key, count in unread.items())
        logger.warning(
            "%s: %s %s not read; a question has %s, and the rest is of the command, such as --system",
            path.name, keys, "are" if len(unread) > 1 else "is", ", ".join(map(repr, _FLAT)),
        )  # fmt: skip
    check_ids(found)
    return found, bad


def _unread_keys(value: Any) -> list[str]:
    """Keys of a flat question that are ignored; records are shared with training, which may have others."""
    if not isinstance(value, dict) or "conversations" in value:
        return []
    return [key for key, item in value.items() if key not in _FLAT and item is not None]


def check_ids(questions: Sequence[Question]) -> None:
    """Refuse an id that is given twice.

    Raises:
        ValueError: naming both places.
    """
    first: dict[str, Question] = {}
    for one in questions:
        if one.id in first:
            raise ValueError(
                f"{one.location} has the id of {first[one.id].location}: answers are kept by id, give each its own"
            )
        first[one.id] = one


def question_of(value: Any, location: str, folder: Path, choices: Sequence[str] = ()) -> Question:
    """The question of a record.

    Args:
        value: of the JSON.
        location: file, line and id.
        folder: of the images and masks, which must exist.
        choices: where it brings none of its own.

    Raises:
        ValueError: saying what is wrong, without the name of the record.
    """
    if isinstance(value, Exception):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"a question is an object such as {_EXAMPLE}, got {short(value)}")
    if "conversations" in value and "question" in value:
        raise ValueError('it has "question" and "conversations"; give one of them')
    if "conversations" in value and value.get("history"):
        raise ValueError(
            'it has "history" and "conversations"; the conversation has its own earlier turns, give one of them'
        )
    turns = _turns_of(value) if "conversations" in value else _flat_turns(value)
    record = {key: item for key, item in value.items() if item is not None and key not in _OWN}
    if "image" not in record and (hint := meant_key(value, "image")):
        raise ValueError(hint)
    if "conversations" in value and isinstance(record.get("regions"), list):
        record["regions"] = _asked_regions(value["conversations"], record["regions"])
    if wrong := [turn for turn in turns if not isinstance(turn, str)]:
        raise ValueError(f"a turn is a text, got {short(wrong[0])}")
    count = len(images_of(record))
    placed = any(IMAGE_PLACEHOLDER in turn for turn in turns)
    asked = turns if placed else [(IMAGE_PLACEHOLDER + "\n") * count + turns[0], *turns[1:]]
    said = [{"from": ("human", "gpt")[number % 2], "value": turn} for number, turn in enumerate([*asked, "?"])]
    try:
        data, specs = parse_record({**record, "conversations": said}, str(folder))
    except ValueError as error:
        raise error if "conversations" in value else _said_of_flat(error, len(turns)) from error
    texts = [turn["value"] for turn in data["conversations"][:-1]]
    if not placed:
        texts[0] = texts[0].removeprefix((IMAGE_PLACEHOLDER + "\n") * count)
    return Question(
        id=_id_of(value),
        images=tuple(path_of(str(folder), name) for name in images_of(record)),
        text=texts[-1],
        specs=specs,
        folder=str(folder),
        history=tuple(zip(texts[0:-1:2], texts[1:-1:2], strict=True)),
        choices=_choices_of(value) or tuple(choices),
        location=location,
        tags=None if (tags := tags_of(value)) is None else tuple(tags),
        task=_task_of(value),
    )


def _said_of_flat(error: ValueError, turns: int) -> ValueError:
    """An error about a record, in the words of the flat question that it was made of."""

    def place(found: re.Match[str]) -> str:
        if found[1] is None:
            return "its texts"
        number = int(found[1])
        return '"question"' if number == turns - 1 else f'"history"[{number // 2}][{number % 2}]'

    return ValueError(re.sub(r"^conversations(?:\[(\d+)\])?(?= |:)", place, str(error)))


def _task_of(value: dict[str, Any]) -> str | None:
    task = value.get(RECORD_KEY)
    if task is not None and not isinstance(task, str):
        raise ValueError(f"{RECORD_KEY} is the name of a task, got {short(task)}")
    return task


def _id_of(value: dict[str, Any]) -> str:
    id = value.get("id")
    if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
        raise ValueError(f"its id is {short(id)}: answers are kept by it, give a text or a number")
    return str(id)


def _flat_turns(value: dict[str, Any]) -> list[str]:
    question, history = value.get("question"), value.get("history")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f'"question" is a text, got {short(question)}; a question is an object such as {_EXAMPLE}')
    turns = []
    for turn in _list(history, _TURNS):
        if not isinstance(turn, list) or len(turn) != 2:
            raise ValueError(f"{_TURNS}, got {short(turn)}")
        turns += turn
    return [*turns, question]


def _turns_of(value: dict[str, Any]) -> list[str]:
    """The turns up to the last question; the answer behind it is not shown."""
    turns = value["conversations"]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"conversations is a list of {{from, value}}, got {short(turns)}")
    turns = turns if len(turns) % 2 else turns[:-1]
    for number, turn in enumerate(turns):
        if turn.get("from") != ("human", "gpt")[number % 2]:
            raise ValueError(f"conversations[{number}] is from {short(turn.get('from'))}; human and gpt take turns")
    return [turn.get("value") for turn in turns]


def _asked_regions(turns: list[Any], regions: list[Any]) -> list[Any]:
    """The regions without those that an answer points at which is not shown."""
    behind = "" if len(turns) % 2 else str(turns[-1].get("value"))
    return regions[: len(regions) - behind.count(REGION_PLACEHOLDER)]


def _choices_of(value: dict[str, Any]) -> tuple[str, ...]:
    return check_choices(_list(value.get("choices"), '"choices" is a list of texts'))


def check_choices(found: Sequence[Any]) -> tuple[str, ...]:
    """Texts to choose from.

    Raises:
        ValueError: for anything else, a text that is there twice, or only one.
    """
    for one in found:
        if not isinstance(one, str) or not one.strip() or IMAGE_PLACEHOLDER in one or REGION_PLACEHOLDER in one:
            raise ValueError(f"a choice is a text without placeholders, got {short(one)}")
    if len(set(found)) < len(found) or len(found) == 1:
        raise ValueError(f"choices are two or more different texts, got {short(list(found))}")
    return tuple(found)


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{what}, got {short(value)}")
    return value
