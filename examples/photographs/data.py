"""Records of the experiment: annotations by ``data convert``, parts by ``data split``, and what is drawn from them."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.data.split import split_file
from pvit_ext.files import atomic_write

LEAST = 20
"""Boxes of a kind in the training photographs; rarer kinds are left out, in validation too."""
MOST = 3
"""Regions in a conversation: with more the language model learned to look at them much later."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Photograph:
    """An image of the data set, and the boxes on it.

    Args:
        image: relative to the data set's folder.
        boxes: xyxy in original pixels.
        kinds: the name of what is in each, as it is to be answered.
    """

    image: str
    boxes: tuple[Box, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """What is asked. The form of the answer stands in the question.

    Args:
        thing: what all kinds are, such as ``chess piece``.
        example: one of the kinds.
    """

    thing: str
    example: str

    def first(self, mention: str = "<region>") -> str:
        """The first question of a conversation."""
        return f"Which {self.thing} is in {mention}? For example: {self.example}."

    def next(self, mention: str = "<region>") -> str:
        """Each further question."""
        return f"And in {mention}?"

    def tags(self) -> str:
        """A question about the whole photograph."""
        return f"Which {self.thing}s are in the image?"


def hold_out(records: Path, out: Path, seed: int = 0) -> None:
    """Split off a sixth of the training photographs, to choose settings on, as ``pvit-ext data split`` does."""
    split_file(records, out, {"fit": 5 / 6, "dev": 1 / 6}, seed)


def read_photographs(records: Path) -> list[Photograph]:
    """The photographs of a converted file; names get spaces for dashes."""
    found = []
    with records.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            objects = record["source"]["objects"]
            boxes = tuple(_box(one, record["regions"]) for one in objects)
            kinds = tuple(in_words(one["label"]) for one in objects)
            found.append(Photograph(record["image"], boxes, kinds))
    return found


def in_words(label: str) -> str:
    """The name of a class, with spaces for dashes."""
    return label.replace("-", " ").replace("_", " ")


def usual_kinds(photographs: Sequence[Photograph]) -> list[str]:
    """Kinds with :data:`LEAST` boxes or more, sorted."""
    counts = Counter(kind for photograph in photographs for kind in photograph.kinds)
    return sorted(kind for kind, count in counts.items() if count >= LEAST)


def only(photographs: Sequence[Photograph], kinds: Sequence[str]) -> list[Photograph]:
    """The photographs with the boxes of these kinds alone; without any, a photograph is left out."""
    found = []
    for photograph in photographs:
        kept = [(b, k) for b, k in zip(photograph.boxes, photograph.kinds, strict=True) if k in kinds]
        if kept:
            boxes, names = zip(*kept, strict=True)
            found.append(Photograph(photograph.image, boxes, names))
    return found


def tag_records(photographs: Sequence[Photograph], wording: Wording, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Conversations about whole photographs, for stage 0: which kinds are there."""
    rng = random.Random(seed)
    order = _endless(list(photographs), rng)
    for number in range(count):
        photograph = next(order)
        turns = [(wording.tags(), ", ".join(sorted(set(photograph.kinds))))]
        yield _record(f"tags/{number}", photograph.image, turns, [])


def region_records(
    photographs: Sequence[Photograph], wording: Wording, count: int, seed: int, evenness: float
) -> Iterator[dict[str, Any]]:
    """Conversations about one to three regions of a photograph, in which rare kinds come more often than in the data.

    A kind is drawn with probability proportional to ``boxes ** (1 - evenness)``, then its next box in an order that
    passes over all of them; the further regions are other boxes of that photograph, by the same law.

    Args:
        photographs: to draw from.
        wording: of the questions.
        count: of conversations.
        seed: of all draws.
        evenness: 0 draws every box equally often, 1 every kind.
    """
    rng = random.Random(seed)
    boxes_of = defaultdict(list)
    for photograph in photographs:
        for index, kind in enumerate(photograph.kinds):
            boxes_of[kind].append((photograph, index))
    weight = {kind: len(found) ** -evenness for kind, found in boxes_of.items()}  # of one box
    decks = {kind: _endless(found, rng) for kind, found in boxes_of.items()}
    kinds = sorted(boxes_of)
    for number in range(count):
        (kind,) = rng.choices(kinds, [weight[kind] * len(boxes_of[kind]) for kind in kinds])
        photograph, first = next(decks[kind])
        others = [index for index in range(len(photograph.boxes)) if index != first]
        chosen = [first]
        for _ in range(min(rng.randint(1, MOST) - 1, len(others))):
            (other,) = rng.choices(others, [weight[photograph.kinds[index]] for index in others])
            others.remove(other)
            chosen.append(other)
        rng.shuffle(chosen)
        turns = [(wording.next() if turn else wording.first(), photograph.kinds[i]) for turn, i in enumerate(chosen)]
        yield _record(f"regions/{number}", photograph.image, turns, [photograph.boxes[i] for i in chosen])


def question_records(photographs: Sequence[Photograph], wording: Wording) -> Iterator[dict[str, Any]]:
    """One record for every box, with one question."""
    for photograph in photographs:
        for index, (box, kind) in enumerate(zip(photograph.boxes, photograph.kinds, strict=True)):
            yield _record(f"{photograph.image}#{index}", photograph.image, [(wording.first(), kind)], [box])


def without_regions(record: dict[str, Any]) -> dict[str, Any]:
    """The record for an arm that sees the photograph alone."""
    turns = [{**turn, "value": turn["value"].replace("<region>", "the region")} for turn in record["conversations"]]
    return {key: value for key, value in {**record, "conversations": turns}.items() if key != "regions"}


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON Lines, which appear when they are complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def _record(name: str, image: str, turns: Sequence[tuple[str, str]], boxes: Sequence[Box]) -> dict[str, Any]:
    conversations = [
        {"from": sender, "value": value} for turn in turns for sender, value in zip(("human", "gpt"), turn, strict=True)
    ]
    conversations[0]["value"] = f"<image>\n{conversations[0]['value']}"
    regions = {"regions": [list(box) for box in boxes]} if boxes else {}
    return {"id": name, "image": image, "conversations": conversations, **regions}


def _box(item: dict[str, Any], regions: list[Any]) -> Box:
    """The box of an object; it is stored apart only where the record's region is no box."""
    x0, y0, x1, y1 = item["box"] if "box" in item else regions[item["region"]]
    return x0, y0, x1, y1


def _endless(items: list[Any], rng: random.Random) -> Iterator[Any]:
    """All items in one random order after another."""
    while True:
        order = list(items)
        rng.shuffle(order)
        yield from order
