"""Answers of an external model behind an OpenAI-compatible endpoint, with regions drawn or written."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from pvit_ext.data.generate.pipeline import Lookup
from pvit_ext.data.generate.reply import Refused
from pvit_ext.data.generate.request import ImagePart, Message, Request
from pvit_ext.evaluation.answering import show
from pvit_ext.evaluation.arms import Arm
from pvit_ext.evaluation.calls import EndpointOptions, make_calls, reply_text
from pvit_ext.evaluation.sample import Prediction, Sample
from pvit_ext.evaluation.task import Task
from pvit_ext.prompt import IMAGE_PLACEHOLDER

LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class Pixels(ImagePart):
    """An image of a message that is in memory: its regions may be drawn on it.

    Args:
        image: upright RGB.
    """

    image: Image.Image = field(default_factory=lambda: Image.new("RGB", (1, 1)))

    def mark(self) -> dict[str, Any]:
        """What tells it from any other."""
        shown = hashlib.sha256(repr(self.image.size).encode() + self.image.tobytes())
        return {"sha256": shown.hexdigest(), "side": self.side}

    def data_url(self) -> str:
        """The image as a PNG, so that thin marks and small objects stay, in a data URL."""
        image, stream = self.image.copy(), io.BytesIO()
        image.thumbnail((self.side, self.side))
        image.save(stream, "PNG")
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


@dataclass(frozen=True)
class _Question:
    """A sample as a job of the endpoint's calls."""

    name: str
    sample: Sample


class _Questions:
    """One call for each sample; see :class:`~pvit_ext.data.generate.calls.Plan`."""

    def __init__(self, task: Task, arm: Arm, options: EndpointOptions) -> None:
        self.task, self.arm, self.options = task, arm, options
        self.answers: dict[str, Prediction] = {}
        self.refused: dict[str, str] = {}

    def advance(self, job: _Question, lookup: Lookup) -> Request | None:
        shown = show(self.task, job.sample, self.arm)
        request = Request(job.name, self._messages(shown.query), BaseModel, self.options.call)
        if (answer := lookup(request.key)) is None:
            return request
        try:
            text = reply_text(answer.raw) if answer.failure is None else ""
            if answer.failure is not None:
                self.refused[job.name] = answer.failure
        except Refused as error:
            text, self.refused[job.name] = "", str(error)
        self.answers[job.name] = Prediction(text, shown.areas)
        return None

    def _messages(self, query: Any) -> list[Message]:
        side = self.options.call.image_side
        images = [Pixels("", side, image=image) for image in query.load_images()]
        texts = [text for turn in query.history for text in turn] + [query.text]
        contents = _contents(texts, images)
        messages: list[Message] = [
            {"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)
        ]
        return [{"role": "system", "content": self.options.system}, *messages] if self.options.system else messages


def _contents(texts: Sequence[str], images: Sequence[Pixels]) -> list[str | list[Any]]:
    """What each message holds: images where the user's texts have a placeholder for each, else all before the first.

    Args:
        texts: of user and assistant by turns.
        images: in order.
    """
    if sum(text.count(IMAGE_PLACEHOLDER) for text in texts[::2]) != len(images):
        first, *rest = [_plain(text) for text in texts]
        return [[*images, first], *rest]
    left = iter(images)
    contents: list[str | list[Any]] = []
    for number, text in enumerate(texts):
        if number % 2 or (number and IMAGE_PLACEHOLDER not in text):
            contents.append(_plain(text))
            continue
        before, *parts = [part.strip() for part in text.split(IMAGE_PLACEHOLDER)]
        shown = [before, *(one for part in parts for one in (next(left), part))]
        contents.append([one for one in shown if one != ""])
    return contents


def _plain(text: str) -> str:
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def answer_by_endpoint(
    task: Task, samples: Sequence[Sample], arm: Arm, options: EndpointOptions, out: Path
) -> tuple[dict[str, Prediction], dict[str, str]]:
    """The external model's answers; each reply is in the ledger at once, and none is paid for twice.

    Args:
        task: that asks.
        samples: to ask.
        arm: that shows regions without region tokens.
        options: of the endpoint.
        out: folder of the ledger.

    Returns:
        the answers by sample id, and of those that the model or a filter refused, with an empty answer, the reason.

    Raises:
        ValueError: when calls had no reply, or the ledger is in use.
    """
    plan = _Questions(task, arm, options)
    make_calls(plan, [_Question(sample.id, sample) for sample in samples], options, out / LEDGER, "asking")
    return plan.answers, plan.refused
