"""A conversation of the page as a command line and as a data record."""

from __future__ import annotations

import json
import shlex
from typing import Any

from pvit_ext.serving.demo.turns import Talk

_POINTS = ("polygon", "scribble")


def command_line(talk: Talk, model: str) -> str:
    """``pvit-ext ask`` for the last question; it has no flag for earlier turns.

    A mask stands as a file's name, ``mask-2.png`` for region 2 of the page, which offers the file by that name.

    Args:
        talk: its regions are good.
        model: folder of the checkpoint.

    Raises:
        ValueError: for a region that the command line has no flag for.
    """
    last = talk.turns[-1]
    words = ["pvit-ext", "ask", "--model", model, "--image", talk.picture.name]
    numbers = last.numbers or range(1, len(last.shapes) + 1)
    for number, shape in zip(numbers, last.shapes, strict=True):
        words += _flag(shape, number)
    return shlex.join([*words, last.question])


def record_of(talk: Talk, image: str) -> dict[str, Any]:
    """The conversation as LLaVA's training record with regions.

    Args:
        talk: its regions are good.
        image: name of the picture in the image folder.
    """
    turns: list[dict[str, str]] = []
    for turn in talk.turns:
        turns += [{"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer}]
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    record: dict[str, Any] = {"id": talk.picture.key, "image": image, "conversations": turns}
    if talk.shapes:
        record["regions"] = talk.shapes
    if any(turn.corrected for turn in talk.turns):
        record["corrected"] = True
    return record


def as_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False)


def _flag(shape: dict[str, Any], number: int) -> list[str]:
    (kind,) = (key for key in shape if key in ("box", "point", *_POINTS, "mask"))
    if kind == "mask":
        return ["--mask", f"mask-{number}.png"]
    if kind in _POINTS:
        if not all(len(point) == 2 for point in shape[kind]):
            raise ValueError("the command line takes no polygon of several parts; copy the record")
        return [f"--{kind}", " ".join(f"{_number(x)},{_number(y)}" for x, y in shape[kind])]
    return [f"--{kind}", *map(_number, shape[kind])]


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(value)
