"""The calls of a judge, as jobs of :mod:`pvit_ext.data.generate.calls`: those about one answer are a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from pvit_ext.data.generate.messages import ask_again
from pvit_ext.data.generate.pipeline import Lookup
from pvit_ext.data.generate.reply import BadReply, Refused
from pvit_ext.data.generate.request import Message, Request
from pvit_ext.evaluation.calls import EndpointOptions, reply_text
from pvit_ext.evaluation.judge.task import JudgeQuestion


@dataclass(frozen=True)
class Job:
    """What the judge is asked about one answer.

    Args:
        name: id of the sample.
        questions: about it.
    """

    name: str
    questions: Sequence[JudgeQuestion]


class _Need(Exception):
    def __init__(self, request: Request) -> None:
        self.request = request


class Asking:
    """See :class:`~pvit_ext.data.generate.calls.Plan`.

    Args:
        options: of the judge's endpoint.
        again: ask once more for a reply that cannot be read; else it is worth what the benchmark's script makes of it.

    Attributes:
        readings: of the replies by job, None for each question without one.
        failures: (job, number of the question) -> why its reply could not be read.
    """

    def __init__(self, options: EndpointOptions, again: bool) -> None:
        self.options, self.again = options, again
        self.readings: dict[str, list[Any]] = {}
        self.failures: dict[tuple[str, int], str] = {}

    def advance(self, job: Job, lookup: Lookup) -> Request | None:
        """The next call about an answer; None where there is none."""
        try:
            readings = [self._reading(job.name, number, one, lookup) for number, one in enumerate(job.questions)]
        except _Need as need:
            return need.request
        self.readings[job.name] = readings
        return None

    def _reading(self, job: str, number: int, question: JudgeQuestion, lookup: Lookup) -> Any:
        messages: list[Message] = [{"role": "user", "content": list(question.content(self.options.call.image_side))}]
        if question.system:
            messages.insert(0, {"role": "system", "content": question.system})
        text, problem = "", ""
        for turn in range(2 if self.again else 1):
            asked = ask_again(messages, text, problem) if turn else messages
            request = Request(job, asked, BaseModel, self.options.call)
            if (answer := lookup(request.key)) is None:
                raise _Need(request)
            try:
                if answer.failure is not None:
                    raise Refused(answer.failure)
                text = reply_text(answer.raw)
                return question.read(text)
            except Refused as error:
                self.failures[job, number] = str(error)
                return None
            except BadReply as error:
                problem = str(error)
        self.failures[job, number] = problem
        return None if self.again else question.by_script
