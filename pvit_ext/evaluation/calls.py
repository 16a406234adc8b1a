"""Calls of an endpoint for an evaluation: each reply is in a ledger at once, and none is paid for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvit_ext.data.generate.calls import Caller, JobT, Plan
from pvit_ext.data.generate.client import Endpoint, OpenAIClient
from pvit_ext.data.generate.ledger import Ledger
from pvit_ext.data.generate.limits import Budget, Pace, Prices
from pvit_ext.data.generate.reply import BadReply, message_text, read_body
from pvit_ext.data.generate.request import CallOptions


@dataclass(frozen=True)
class EndpointOptions:
    """A model behind an endpoint, and how it is asked.

    Args:
        endpoint: where calls go.
        call: what all calls share; its ``model`` is the name there.
        system: prompt, None for none.
        concurrency: calls at a time.
    """

    endpoint: Endpoint
    call: CallOptions
    system: str | None = None
    concurrency: int = 8

    @property
    def name(self) -> str:
        """The model and where it is."""
        return f"{self.call.model} at {self.endpoint.base_url or 'OpenAI'}"


def make_calls(plan: Plan[JobT], jobs: Sequence[JobT], options: EndpointOptions, ledger: Path, doing: str) -> None:
    """Make all calls that the jobs need; the plan sees each reply.

    Args:
        plan: says what a job needs.
        jobs: to do.
        options: of the endpoint.
        ledger: file of all calls.
        doing: for the progress bar and the error, such as ``asking``.

    Raises:
        ValueError: when calls had no reply, or the ledger is in use.
    """
    from tqdm import tqdm

    with Ledger(ledger) as calls, tqdm(total=len(jobs), desc=doing, unit="sample") as bar:
        caller = Caller(plan, calls, OpenAIClient(options.endpoint), Pace(None, None), Budget(Prices(), None))
        progress = asyncio.run(caller.do(jobs, options.concurrency, bar.update))
    if progress.stopped or progress.failed:
        why = progress.stopped or next(iter(progress.failed.values()))
        raise ValueError(
            f"{doing} {options.name}: {len(jobs) - progress.finished} of {len(jobs)} questions have no reply ({why}): "
            "run the same command again, it asks only those"
        )


def reply_text(raw: str) -> str:
    """The text of a reply; one that was cut at the longest length is an answer too, and so is an empty one.

    Raises:
        Refused: by the model, or by a content filter.
    """
    body = read_body(raw)
    try:
        return message_text(body)
    except BadReply:
        choices = body.get("choices") or [{}]
        message = choices[0].get("message") if isinstance(choices[0], dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        return text if isinstance(text, str) else ""
