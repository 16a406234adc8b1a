"""A conversation of the page as a command and as a data record."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from pvit_ext.config import RECORD_KEY
from pvit_ext.data.tags.tags import TAGS_KEY
from pvit_ext.serving.demo.turns import Talk

_POINTS = ("polygon", "scribble")


def command_of(talk: Talk, command: Sequence[str]) -> tuple[str, str]:
    """``pvit-ext ask`` for the last question, and what to know before it is run.

    Where the flags suffice it is one line. They have no words for earlier turns and polygons of several parts: a first
    line writes such a question to a file then.

    Args:
        talk: its regions are good.
        command: words of ``pvit-ext ask`` with the demo's model, before those of a question.
    """
    folder = f"Run it in the folder of {talk.picture.name}"
    if len(talk.turns) == 1 and not any(map(_has_parts, talk.shapes)):
        masks = [f"mask-{number}.png" for number, shape in _numbered(talk) if "mask" in shape]
        first = f", and save {', '.join(masks)} there first (the button PNG of the region)" if masks else ""
        return shlex.join([*command, *_words(talk)]), folder + first + "."
    question = _question_of(talk, command)
    asked, answered = f"question-{question['id']}.jsonl", f"answer-{question['id']}.jsonl"
    lines = [
        f"printf '%s\\n' {shlex.quote(as_line(question))} > {asked}",
        shlex.join([*command, "--file", asked, "--out", answered]),
        f"cat {answered}",
    ]
    why = "earlier turns" if len(talk.turns) > 1 else "polygons of several parts"
    return "\n".join(lines), f"{folder}. Flags cannot say {why}: the first line writes the question to a file."


def record_of(talk: Talk, image: str) -> dict[str, Any]:
    """The conversation as LLaVA's training record with regions.

    Its id is made of all that it holds: a record has the same one each time, and another one has another.

    Args:
        talk: its regions are good.
        image: name of the picture in the image folder.
    """
    turns: list[dict[str, str]] = []
    for turn in talk.turns:
        turns += [{"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer}]
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    record: dict[str, Any] = {"image": image, "conversations": turns, **_beside(talk)}
    if any(turn.corrected for turn in talk.turns):
        record["corrected"] = True
    return {"id": f"{talk.picture.digest}-{_digest(record)}", **record}


def as_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False)


def _question_of(talk: Talk, command: Sequence[str]) -> dict[str, Any]:
    """The last question with all before it, as ``pvit-ext ask --file`` reads it.

    Its id is made of the picture and the command too: ``--out`` keeps the answers whose ids it finds in its file, and
    every pasted picture may have the same name.
    """
    question: dict[str, Any] = {"image": talk.picture.name, "question": talk.turns[-1].question}
    if talk.history:
        question["history"] = [list(turn) for turn in talk.history]
    question |= _beside(talk)
    return {"id": _digest([talk.picture.digest, list(command), question]), **question}


def _beside(talk: Talk) -> dict[str, Any]:
    """Regions, tags and task, where there are any."""
    found = {"regions": talk.shapes, TAGS_KEY: list(talk.tags or ()), RECORD_KEY: talk.task}
    return {key: value for key, value in found.items() if value}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _words(talk: Talk) -> list[str]:
    """The words of a question of one turn."""
    words = option_words("--image", talk.picture.name)
    for number, shape in _numbered(talk):
        words += _flag(shape, number)
    words += [] if talk.tags is None else option_words("--tags", ",".join(talk.tags))
    words += [] if talk.task is None else option_words("--task", talk.task)
    question = talk.turns[-1].question
    return [*words, *(["--"] if question.startswith("-") else []), question]


def option_words(flag: str, value: str) -> list[str]:
    """An option with its value, which may look like an option itself.

    Args:
        flag: with its dashes.
        value: any text.
    """
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _numbered(talk: Talk) -> list[tuple[int, dict[str, Any]]]:
    """The last turn's regions with the numbers that they have on the page."""
    last = talk.turns[-1]
    return list(zip(last.numbers or range(1, len(last.shapes) + 1), last.shapes, strict=True))


def _has_parts(shape: dict[str, Any]) -> bool:
    return any(len(point) != 2 or isinstance(point[0], list) for kind in _POINTS for point in shape.get(kind, ()))


def _flag(shape: dict[str, Any], number: int) -> list[str]:
    (kind,) = (key for key in shape if key in ("box", "point", *_POINTS, "mask"))
    if kind == "mask":
        return ["--mask", f"mask-{number}.png"]
    if kind in _POINTS:
        return option_words(f"--{kind}", " ".join(f"{_number(x)},{_number(y)}" for x, y in shape[kind]))
    return [f"--{kind}", *map(_number, shape[kind])]


def _number(value: float) -> str:
    """All its digits, without an exponent: argparse takes -1e-05 for an option."""
    return str(int(value)) if value == int(value) else format(Decimal(repr(value)), "f")
