"""What a run will take, before it takes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pvit_ext.data.generate.limits import Prices
from pvit_ext.data.generate.pipeline import Lookup, Pipeline
from pvit_ext.data.generate.reply import Usage
from pvit_ext.data.generate.request import Request
from pvit_ext.data.generate.strategies import Job

TOKENS_PER_TURN, TOKENS_PER_DESCRIPTION = 60, 350


@dataclass(frozen=True)
class Estimate:
    """What the jobs of a run still need, if no reply is bad.

    Args:
        jobs: all of them.
        unfinished: those that need a call.
        calls: at least.
        expected: tokens.
        most: tokens, if every reply is as long as it may be and each is asked for twice.
    """

    jobs: int
    unfinished: int
    calls: int
    expected: Usage
    most: Usage

    def text(self, prices: Prices) -> str:
        """One line for the user."""
        tokens = f"{self.expected.input_tokens:,} tokens in and {self.expected.output_tokens:,} out"
        line = f"{self.jobs:,} dialogues, {self.unfinished:,} of them need calls: {self.calls:,} calls, about {tokens}"
        if prices == Prices():
            return line
        return f"{line}, cost about {prices.cost(self.expected):.2f}, at most {prices.cost(self.most):.2f}"


def estimate(jobs: Iterable[Job], pipeline: Pipeline, lookup: Lookup) -> Estimate:
    """Add up what the jobs need.

    Args:
        jobs: of the run.
        pipeline: that says what each needs next.
        lookup: of the ledger; what is in it costs nothing more.
    """
    count = unfinished = calls = tokens_in = tokens_out = 0
    for job in jobs:
        count += 1
        if not isinstance(request := pipeline.advance(job, lookup), Request):
            continue
        unfinished += 1
        needed = pipeline.calls_of(job)
        described = needed == 2
        turns = sum(pipeline.turns_of(job)) // 2
        calls += needed
        tokens_in += request.input_tokens * needed + (TOKENS_PER_DESCRIPTION if described else 0)
        tokens_out += TOKENS_PER_TURN * turns + (TOKENS_PER_DESCRIPTION if described else 0)
    longest = pipeline.options.max_tokens
    most = Usage(2 * tokens_in + calls * longest, 2 * calls * longest)
    return Estimate(count, unfinished, calls, Usage(tokens_in, tokens_out), most)
