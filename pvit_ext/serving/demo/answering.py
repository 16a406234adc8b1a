"""Answers as they come, and the button that stops them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.pictures import Pictures
from pvit_ext.serving.demo.turns import read_talk
from pvit_ext.tokens.query import Query


class Stream(Protocol):
    """An answer that comes; see :class:`pvit_ext.serving.answer.Answer`."""

    def __iter__(self) -> Iterator[str]:
        """Pieces of text as they come."""

    def cancel(self) -> None:
        """End it; who reads it gets an error."""


class Asked(Protocol):
    """Hands a question to the model."""

    def __call__(self, query: Query) -> Stream:
        """The answer to the question, as it comes.

        Args:
            query: checked.

        Raises:
            ValueError: saying what is wrong with the question.
        """


class Answering:
    """Answers the page's questions; each has a name by which it can be stopped.

    Args:
        ask: hands a question to the model.
        pictures: that were opened.
        hints: what the model reads beside questions.
    """

    def __init__(self, ask: Asked, pictures: Pictures, hints: Hints = Hints()) -> None:  # noqa: B008 - frozen
        self._ask, self._pictures, self._hints = ask, pictures, hints
        self._running: dict[str, Stream] = {}
        self._stopped: set[str] = set()
        self._lock = threading.Lock()

    def ask(self, request: Any) -> Iterator[dict[str, Any]]:
        """The answer so far, again and again.

        Args:
            request: a talk, and ``"name"`` of the question, which no other has.

        Yields:
            ``{"text", "state"}``; the state is running, complete or stopped, or there is an ``"error"``.
        """
        name, text, answer = "", "", None
        try:
            name = str(request["name"]) if isinstance(request, dict) and request.get("name") else ""
            if not name:
                raise ValueError("a question has a name, by which it can be stopped")
            answer = self._start(name, read_talk(request, self._pictures, self._hints).query())
            yield {"text": "", "state": "running"}
            for piece in answer:
                text += piece
                yield {"text": text, "state": "running"}
            yield {"text": text, "state": "complete"}
        except (ValueError, OSError, RuntimeError) as error:
            if answer is not None and name in self._stopped:
                yield {"text": text, "state": "stopped"}
            else:
                yield {"text": text, "state": "error", "error": str(error)}
        finally:
            if answer is not None:
                self._end(name, answer)

    def stop(self, name: str) -> bool:
        """Stop an answer.

        Args:
            name: of its question.

        Returns:
            whether it was running.
        """
        with self._lock:
            answer = self._running.get(name)
            if answer is not None:
                self._stopped.add(name)
        if answer is not None:
            answer.cancel()
        return answer is not None

    def _start(self, name: str, query: Query) -> Stream:
        with self._lock:
            if name in self._running:
                raise ValueError(f"a question named {name} is being answered already")
            answer = self._running[name] = self._ask(query)
        return answer

    def _end(self, name: str, answer: Stream) -> None:
        """Also where the reader went away: the model does not go on for nobody."""
        with self._lock:
            self._running.pop(name, None)
            self._stopped.discard(name)
        answer.cancel()
