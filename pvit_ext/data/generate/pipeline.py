"""What a job needs next, given the replies so far: a call, or nothing more, because it is done or cannot be done.

All that is done is a function of job and replies, so that a run that was killed goes on, a run without new calls writes
the same file, and a batch's replies are used like others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pvit_ext.data.generate.messages import Message, ask_again, ask_description, ask_turns
from pvit_ext.data.generate.reply import Refused, message_text, read_body
from pvit_ext.data.generate.request import CallOptions, Request
from pvit_ext.data.generate.schema import Description, Dialogue, parse
from pvit_ext.data.generate.strategies import Job
from pvit_ext.data.generate.validation import CheckedTurn, check_description, check_dialogue

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What is known of a call that was made.

    Args:
        raw: body of the reply.
        failure: why there is none and will be none, such as a prompt that is too long.
    """

    raw: str = ""
    failure: str | None = None


@dataclass(frozen=True)
class Done:
    """A job whose dialogue is complete.

    Args:
        turns: checked.
        keys: of the requests whose replies it is made of.
        description: that ``general`` began with.
        problems: of replies that had to be asked for again.
    """

    turns: Sequence[CheckedTurn]
    keys: Sequence[str]
    description: Description | None = None
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Dead:
    """A job that cannot be done.

    Args:
        reason: in one line.
        attempts: each with the request's key, what was wrong, and the text of the reply.
    """

    reason: str
    attempts: Sequence[dict[str, Any]] = field(default_factory=list)


Lookup = Callable[[str], Answer | None]


class _Need(Exception):
    def __init__(self, request: Request) -> None:
        self.request = request


class _Failed(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


class Pipeline:
    """The calls of each job: one of questions and answers, for ``general`` one of a description before.

    Args:
        options: of all calls.
        turns: how many at least and at most, in place of the strategies' own.
    """

    def __init__(self, options: CallOptions, turns: tuple[int, int] | None = None) -> None:
        self.options, self._turns = options, turns

    def turns_of(self, job: Job) -> tuple[int, int]:
        """How many turns a job is to have."""
        return self._turns or ((3, 5) if job.strategy in ("multi_turn", "general") else (1, 1))

    def calls_of(self, job: Job) -> int:
        """How many calls a job takes when every reply is good."""
        return 2 if job.strategy == "general" else 1

    def advance(self, job: Job, lookup: Lookup) -> Request | Done | Dead:
        """The next request of a job, or its end.

        Args:
            job: to be done.
            lookup: the answer to a request's key, None where it has not been made.
        """
        steps = _Steps(job, self.options, lookup)
        try:
            found: Description | None = None
            if job.strategy == "general":
                found = steps.call(ask_description(job, self.options), Description, lambda r: check_description(r, job))
            turns = self.turns_of(job)
            messages = ask_turns(job, turns, self.options, found)
            checked = steps.call(messages, Dialogue, lambda reply: check_dialogue(reply, job, turns))
        except _Need as need:
            return need.request
        except _Failed as failed:
            return Dead(failed.reason, steps.attempts)
        return Done(checked, steps.keys, found, [one["problem"] for one in steps.attempts])


class _Steps:
    """The calls of one job, each with one that asks again."""

    def __init__(self, job: Job, options: CallOptions, lookup: Lookup) -> None:
        self.job, self.options, self.lookup = job, options, lookup
        self.keys: list[str] = []
        self.attempts: list[dict[str, Any]] = []

    def call(self, messages: list[Message], kind: Any, check: Callable[[Any], T]) -> T:
        """The checked reply.

        Raises:
            _Need: of a reply that is not there.
            _Failed: after the second bad one, a refusal, or a request that the endpoint does not take.
        """
        text, problem = "", ""
        for again in (False, True):
            asked = ask_again(messages, text, problem) if again else messages
            request = Request(self.job.name, asked, kind, self.options)
            if (answer := self.lookup(request.key)) is None:
                raise _Need(request)
            self.keys.append(request.key)
            text = ""
            try:
                if answer.failure is not None:
                    raise Refused(answer.failure)
                text = message_text(read_body(answer.raw))
                return check(parse(text, kind))
            except ValueError as error:
                problem = str(error)
                self.attempts.append({"request": request.key, "problem": problem, "reply": text or answer.raw})
                if isinstance(error, Refused):
                    raise _Failed(problem) from error
        raise _Failed(problem)
