"""Answers in OpenAI's JSON: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pvit_ext.serving.answer import Completed
from pvit_ext.serving.api_error import ApiError

Piece = tuple[int, str | Completed]
"""Of a choice, by its number."""
_GRACE = 5.0
"""Seconds for a slow reader to take the rest of a stream whose time is over."""


class Reply:
    """The frame of one answer.

    Args:
        model: its name.
    """

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def completion(self, done: Sequence[Completed]) -> dict[str, Any]:
        """A ``chat.completion``.

        Args:
            done: one for each choice.
        """
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "logprobs": None,
                "finish_reason": one.reason,
            }
            for index, one in enumerate(done)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": _usage(done)}

    async def events(
        self, choices: int, first: Piece, pieces: AsyncIterator[Piece], usage: bool, until: float
    ) -> AsyncIterator[bytes]:
        """Events of a ``chat.completion.chunk`` each; an error behind the first piece is an event too.

        Args:
            choices: number of them.
            first: piece, which was waited for before the status was sent.
            pieces: the others, and each whole answer at its end.
            usage: whether the last event counts tokens.
            until: time of ``time.monotonic`` by which it must have come.
        """
        for index in range(choices):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        piece: Piece | None = first
        done: list[Completed] = []
        try:
            while piece is not None:
                index, said = piece
                if isinstance(said, Completed):
                    done.append(said)
                    yield self._chunk(index, {}, said.reason)
                else:
                    yield self._chunk(index, {"content": said})
                piece = await asyncio.wait_for(anext(pieces, None), until - time.monotonic())
        except (TimeoutError, asyncio.TimeoutError):  # two classes in Python 3.10
            yield _event(ApiError(408, "the answer is not complete within its time", "max_tokens", "timeout").body)
            return
        except Exception:
            yield _event(ApiError(500, "the server failed on this answer; its log says why").body)
            return
        if usage:
            yield _event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(done)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, index: int, delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})


class Streamed(StreamingResponse):
    """A stream of events that gives its place back however it ends, also before it began.

    Args:
        events: of it.
        leave: called once it has ended.
        until: time of ``time.monotonic`` after which a client that does not read is hung up on.
    """

    def __init__(self, events: AsyncIterator[bytes], leave: Callable[[], None], until: float) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._leave, self._until = leave, until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            with anyio.move_on_after(self._until - time.monotonic() + _GRACE):
                await super().__call__(scope, receive, send)
        finally:
            self._leave()


def _usage(done: Sequence[Completed]) -> dict[str, int]:
    """The prompt once, the tokens of every choice."""
    prompt, answers = done[0].prompt_tokens, sum(len(one.ids) for one in done)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
