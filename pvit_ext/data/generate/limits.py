"""How fast calls may be made, and how much they may cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from pvit_ext.data.generate.reply import Usage


class TokenBucket:
    """So many units a minute, evenly; a minute's worth may be taken at once after a pause.

    Args:
        per_minute: units a minute; None: no limit.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._level = per_minute or 0.0
        self._last = clock()

    def take(self, amount: float) -> float:
        """Take an amount, and return the seconds to wait before it is used; more than a minute's worth waits longer."""
        if self.per_minute is None:
            return 0.0
        now = self._clock()
        rate = self.per_minute / 60
        self._level = min(self.per_minute, self._level + (now - self._last) * rate) - amount
        self._last = now
        return max(0.0, -self._level / rate)


class Pace:
    """When the next call may be sent: by its number, by its tokens, and not before a time that the endpoint named.

    Args:
        requests_per_minute: None: no limit.
        tokens_per_minute: of prompts and longest replies; None: no limit.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._buckets = (TokenBucket(requests_per_minute), TokenBucket(tokens_per_minute))
        self._not_before = 0.0

    async def wait(self, tokens: Usage) -> None:
        """Wait until a call of so many tokens may be sent."""
        await asyncio.sleep(self.take(tokens))
        while (seconds := self.paused()) > 0:
            await asyncio.sleep(seconds)

    def take(self, tokens: Usage) -> float:
        """Count a call of so many tokens, and return the seconds to wait before it is sent."""
        amounts = (1, tokens.input_tokens + tokens.output_tokens)
        return max(bucket.take(amount) for bucket, amount in zip(self._buckets, amounts, strict=True))

    def paused(self) -> float:
        """The seconds for which no call may be sent; 0 or less: they may."""
        return self._not_before - time.monotonic()

    def pause(self, seconds: float) -> None:
        """Let no call be sent for a while: the endpoint said that it has too many."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost.

    Args:
        input_price: of prompts.
        output_price: of replies.
    """

    input_price: float = 0.0
    output_price: float = 0.0

    def cost(self, usage: Usage) -> float:
        """The cost of so many tokens, in the prices' currency."""
        return (usage.input_tokens * self.input_price + usage.output_tokens * self.output_price) / 1e6


class CeilingReached(ValueError):
    """The next call might cost more than is allowed."""


class Budget:
    """What was spent, and what calls in flight may cost at most.

    Args:
        prices: of tokens.
        ceiling: that must not be passed; None: no limit.
        spent: before, and by calls of which no reply is known.
    """

    def __init__(self, prices: Prices, ceiling: float | None, spent: float = 0.0) -> None:
        self.prices, self.ceiling, self.spent = prices, ceiling, spent
        self._reserved = 0.0

    def reserve(self, most: Usage) -> None:
        """Set aside what a call may cost.

        Raises:
            CeilingReached: if that is not there; nothing is set aside then.
        """
        cost = self.prices.cost(most)
        if self.ceiling is not None and self.spent + self._reserved + cost > self.ceiling:
            raise CeilingReached(
                f"--max-cost {self.ceiling:g} is reached: {self.spent:.4f} spent, the next call may cost {cost:.4f}"
            )
        self._reserved += cost

    def charge(self, most: Usage, used: Usage | None) -> None:
        """Put what a call did cost in place of what was set aside; None: it had no reply, and cost nothing."""
        self._reserved -= self.prices.cost(most)
        if used is not None:
            self.spent += self.prices.cost(used)
