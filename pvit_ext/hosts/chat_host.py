"""What asking needs of a host, and which host a loaded model belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from pvit_ext.plugins import Registry
from pvit_ext.tokens.processor import RegionPrompt
from pvit_ext.tokens.query import Query


class Ends(NamedTuple):
    """How ``generate`` knows that an answer is complete.

    Args:
        ids: tokens that end it.
        criteria: stopping criteria of transformers, for an end that is no token.
    """

    ids: list[int]
    criteria: list[Any]


class Chat(Protocol):
    """One loaded model in conversation."""

    def prompt(self, query: Query, name: str) -> RegionPrompt:
        """The conversation as one text, with its regions, all checked; no image is decoded.

        Args:
            query: the question.
            name: of the query, for messages.

        Raises:
            RegionError: naming the query.
        """

    def batch(self, queries: Sequence[Query], prompts: Sequence[RegionPrompt]) -> dict[str, Any]:
        """Arguments of the model's ``generate``, with left-padded ids (B, L).

        Args:
            queries: B of them.
            prompts: one for each, by :meth:`prompt`.

        Raises:
            RegionError: naming the query whose image cannot be read, or whose prompt is too long.
        """

    def ends(self) -> Ends:
        """How an answer ends."""

    def answers(self, generated: Tensor, batch: dict[str, Any]) -> list[str]:
        """The texts of what ``generate`` returned (N, L), without the prompt.

        Args:
            generated: ids.
            batch: that it was called with.
        """


class ChatHost(Protocol):
    """A family of vision-language models that :func:`~pvit_ext.ask` can ask."""

    def holds(self, model: Any) -> bool:
        """Whether a loaded model is of this family, by what its class offers."""

    def chat(self, model: Any, tokenizer: Any, processor: Any, conv_version: str | None, system: str | None) -> Chat:
        """Open a conversation with a loaded model.

        Args:
            model, tokenizer, processor: from :func:`~pvit_ext.load_pretrained_model`.
            conv_version: name of a conversation template, None for the usual one.
            system: system prompt in place of the template's.

        Raises:
            ValueError: when there is no such template, or it has no place for a system prompt.
        """


HOSTS: Registry[ChatHost] = Registry("host", "pvit_ext.hosts")


def host_of(model: Any) -> ChatHost:
    """The host of a loaded model.

    Raises:
        TypeError: when it belongs to none, with the known ones.
    """
    for name in HOSTS.names():
        host = HOSTS.require(name)
        if host.holds(model):
            return host
    raise TypeError(f"a {type(model).__name__} is no model of a known host ({', '.join(HOSTS.names())})")
