"""The messages of a call: system prompt, one example, and the image's annotations as one JSON document."""

from __future__ import annotations

import json
from typing import Any

from pvit_ext.data.generate.examples import EXAMPLES
from pvit_ext.data.generate.prompts import AGAIN, describe_prompt, system_prompt
from pvit_ext.data.generate.request import CallOptions, ImagePart, Message
from pvit_ext.data.generate.scene import SceneObject
from pvit_ext.data.generate.schema import Description
from pvit_ext.data.generate.strategies import Job

_LONGEST_REPLY = 4000
"""Most characters of a bad reply that are shown again."""
_MOST_PHRASES = 3
_TURNS = {1: "exactly one turn"}


def region_name(index: int) -> str:
    """The name of the region at this index of a job's ``shown``."""
    return f"[R{index + 1}]"


def ask_turns(
    job: Job, turns: tuple[int, int], options: CallOptions, found: Description | None = None
) -> list[Message]:
    """The messages that ask for questions and answers.

    Args:
        job: on an image.
        turns: how many at least and at most.
        options: of the run.
        found: the description that ``general`` asked for first.
    """
    task = "questions" if job.strategy == "general" else job.strategy
    low, high = turns
    count = (_TURNS.get(low) or f"exactly {low} turns") if low == high else f"{low} to {high} turns"
    system = {"role": "system", "content": system_prompt(task, count, options.images)}
    shown, reply = EXAMPLES[task]
    example = [{"role": "user", "content": _dumps(shown)}, {"role": "assistant", "content": json.dumps(reply)}]
    return [system, *example, _user(job, document(job, found), options)]


def ask_description(job: Job, options: CallOptions) -> list[Message]:
    """The messages that ask for a detailed description and its grounding."""
    system = {"role": "system", "content": describe_prompt(options.images)}
    return [system, _user(job, document(job), options)]


def ask_again(messages: list[Message], reply: str, problem: str) -> list[Message]:
    """The messages that ask once more, with what was wrong."""
    readable = reply[:_LONGEST_REPLY].encode("utf-8", "replace").decode()
    said = {"role": "assistant", "content": readable or "(nothing)"}
    return [*messages, said, {"role": "user", "content": AGAIN.format(problem=problem)}]


def document(job: Job, found: Description | None = None) -> dict[str, Any]:
    """What the model is told about the image."""
    scene, indices = job.scene, {number: index for index, number in enumerate(job.shown)}
    told: dict[str, Any] = {}
    if scene.captions:
        told["captions"] = list(scene.captions)
    if (description := found.description if found else scene.description) is not None:
        told["description"] = description
    if found:
        told["grounding"] = [{"phrase": one.phrase, "region": one.region} for one in found.grounding]
    told["regions"] = [_region(scene.objects[number], index) for number, index in indices.items()]
    relations = [
        [region_name(indices[first]), predicate, region_name(indices[second])]
        for first, predicate, second in scene.relations
        if first in indices and second in indices
    ]
    if relations:
        told["relations"] = relations
    if job.asked:
        told["ask_about"] = [region_name(indices[number]) for number in job.asked]
    return told


def _region(thing: SceneObject, index: int) -> dict[str, Any]:
    told: dict[str, Any] = {"name": region_name(index)}
    if thing.label:
        told["label"] = thing.label
    if thing.phrases:
        told["described_as"] = list(thing.phrases[:_MOST_PHRASES])
    if thing.attributes:
        told["attributes"] = list(thing.attributes)
    if thing.text:
        told["written"] = thing.text
    return {**told, "box": [round(value, 3) for value in thing.box]}


def _user(job: Job, told: dict[str, Any], options: CallOptions) -> Message:
    text = _dumps(told)
    if options.images == "none":
        return {"role": "user", "content": text}
    marks = tuple(job.scene.objects[number].box for number in job.shown) if options.images == "marked" else ()
    return {"role": "user", "content": [text, ImagePart(job.scene.file, options.image_side, marks)]}


def _dumps(told: dict[str, Any]) -> str:
    """A document with one key a line and one region a line: short, and models find their way in it."""
    lines = []
    for key, value in told.items():
        if key in ("regions", "grounding"):
            inner = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value)
            lines.append(f'"{key}": [\n  {inner}]')
        else:
            lines.append(f'"{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{" + ",\n ".join(lines) + "}"
