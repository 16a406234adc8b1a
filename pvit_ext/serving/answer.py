"""One question on its way through the engine, and its answer as it comes: for threads and for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pvit_ext.tokens.processor import RegionPrompt
from pvit_ext.tokens.query import Query

FinishReason = Literal["stop", "length"]


class Cancelled(RuntimeError):
    """The answer was cancelled before it was complete."""


@dataclass(frozen=True)
class Settings:
    """How one answer is generated; requests with different settings share a batch.

    Args:
        max_tokens: most tokens of the answer, from 1 on.
        temperature: 0 takes the likeliest token each time.
        top_p: sample from the likeliest tokens that make up this probability; above 0, at most 1.
        seed: of the sampling; None for another one each time.
        stop: texts that end the answer, which is cut before them.

    Raises:
        ValueError: for a value out of its range.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; give 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give a number above 0, at most 1")
        if "" in self.stop:
            raise ValueError("stop holds an empty text, which would end every answer at once")


@dataclass(frozen=True)
class Completed:
    """A complete answer.

    Args:
        text: as ``pvit_ext.ask`` returns it.
        ids: its tokens, the one that ended it included.
        prompt_tokens: positions of the prompt, its images and regions included.
        reason: ``stop`` where the model or a stop text ended it, ``length`` where it reached its most tokens.
    """

    text: str
    ids: list[int]
    prompt_tokens: int
    reason: FinishReason


class Answer:
    """An answer that comes: iterate it for pieces of text, ``result()`` is all of it.

    Args:
        query: the question.
        prompt: of it, by the host's chat.
        settings: how it is generated.
        pieces: whether somebody reads the pieces; without, the text is decoded once, at the end.
        forget: called with the answer when it is cancelled.
    """

    def __init__(
        self,
        query: Query,
        prompt: RegionPrompt,
        settings: Settings,
        pieces: bool = True,
        forget: Callable[[Answer], object] = lambda _: None,
    ) -> None:
        self.query, self.prompt, self.settings, self.wants_pieces = query, prompt, settings, pieces
        self._forget = forget
        self._pieces: list[str] = []
        self._end: Completed | BaseException | None = None
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], object]] = []

    @property
    def done(self) -> bool:
        """Whether nothing more comes."""
        return self._end is not None

    @property
    def completed(self) -> Completed | None:
        """The whole answer; None before it is complete, and where there is none."""
        return self._end if isinstance(self._end, Completed) else None

    def cancel(self) -> None:
        """Give the place up: a waiting question is never run, a running one ends with its next token."""
        self.fail(Cancelled("the answer was cancelled"))
        self._forget(self)

    def result(self, timeout: float | None = None) -> Completed:
        """Wait for the whole answer.

        Args:
            timeout: seconds, None for any time.

        Raises:
            TimeoutError: when it takes longer.
            Cancelled: when it was cancelled.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._end is not None, timeout):
                raise TimeoutError(f"no complete answer after {timeout} s")
        return self._complete()

    async def wait(self) -> Completed:
        """The same in asyncio; raises what :meth:`result` raises."""
        async for _ in self:
            pass
        return self._complete()

    def __iter__(self) -> Iterator[str]:
        """Pieces of text as they come, which joined are the answer's text; raises what :meth:`result` raises."""
        read, ended = 0, False
        while not ended:
            with self._changed:
                while len(self._pieces) == read and not self.done:
                    self._changed.wait()
            new, ended = self.since(read)
            yield from new
            read += len(new)
        self._complete()

    async def __aiter__(self) -> AsyncIterator[str]:
        """The same in asyncio."""
        async for _, piece in as_they_come([self]):
            if isinstance(piece, str):
                yield piece

    # What the engine and :func:`as_they_come` call

    def listen(self, changed: Callable[[], object]) -> None:
        """Have something called whenever there is more, from any thread."""
        with self._changed:
            self._listeners.append(changed)

    def since(self, read: int) -> tuple[list[str], bool]:
        """The pieces behind the first ``read``, and whether nothing more comes."""
        with self._changed:
            return self._pieces[read:], self.done

    def push_up_to(self, text: str) -> None:
        """The text so far, of which only what is new becomes a piece."""
        said = "".join(self._pieces)
        if len(text) > len(said) and text.startswith(said):
            self._change(text[len(said) :], None)

    def complete(self, completed: Completed) -> None:
        """The answer is complete; what its pieces have not said yet comes as the last one."""
        said = "".join(self._pieces)
        self._change(completed.text[len(said) :] if self.wants_pieces else "", completed)

    def fail(self, error: BaseException) -> None:
        """There will be no answer; nothing happens when it is complete."""
        self._change("", error)

    def _change(self, piece: str, end: Completed | BaseException | None) -> None:
        with self._changed:
            if self._end is not None:
                return
            self._pieces += [piece] if piece else []
            self._end = end
            listeners = list(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener()

    def _complete(self) -> Completed:
        if isinstance(self._end, BaseException):
            raise self._end
        assert self._end is not None
        return self._end


async def as_they_come(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, str | Completed]]:
    """Pieces of several answers, each with the answer's number, and each answer as it is complete.

    Args:
        answers: one may be there several times.

    Raises:
        BaseException: what :meth:`Answer.result` of one of them raises.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    for answer in answers:
        answer.listen(lambda: _wake(loop, changed))
    coming = dict.fromkeys(range(len(answers)), 0)
    while coming:
        changed.clear()
        for number, read in list(coming.items()):
            new, ended = answers[number].since(read)
            for piece in new:
                yield number, piece
            coming[number] += len(new)
            if ended:
                del coming[number]
                yield number, answers[number].result()
        if coming:
            await changed.wait()


async def all_of(answers: Sequence[Answer]) -> list[Completed]:
    """Several answers once all are complete; raises what :meth:`Answer.result` of one of them raises."""
    return [await answer.wait() for answer in answers]


def _wake(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    """From the engine's thread; a loop that has ended since has no reader any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(changed.set)


def cut_at(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first of the stop texts; None where it has none."""
    found = [text.find(stop) for stop in stops if stop in text]
    return text[: min(found)].rstrip() if found else None
