"""One loaded model in conversation: what asking needs of a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from pvit_ext.hosts.prefix import Prefix
from pvit_ext.hosts.shown_images import ShownImages
from pvit_ext.hosts.vision_pass import HostTower
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

    def vision_tower(self) -> HostTower | None:
        """The vision tower as the model runs it when it is asked; None for a model whose images cannot be shared."""

    def batch(
        self, queries: Sequence[Query], prompts: Sequence[RegionPrompt], shown: ShownImages | None = None
    ) -> dict[str, Any]:
        """Arguments of the model's ``generate``, with left-padded ids (B, L).

        Args:
            queries: B of them.
            prompts: one for each, by :meth:`prompt`.
            shown: what the towers make of the images, if that is shared.

        Raises:
            RegionError: naming the query whose image cannot be read, or whose prompt is too long.
        """

    def with_prefix(
        self, batch: dict[str, Any], first: Callable[[], dict[str, Any]], names: object, prefix: Prefix
    ) -> dict[str, Any]:
        """Arguments of ``generate`` in which the beginning that all prompts share was read once.

        Args:
            batch: made by :meth:`batch`, of prompts about the same images.
            first: makes the batch of its first prompt alone.
            names: of the images.
            prefix: what the call has read before.

        Returns:
            the batch itself where nothing can be shared.
        """

    def positions(self, batch: dict[str, Any]) -> list[int]:
        """Positions that each of the B prompts takes in the language model, its images and regions included.

        Args:
            batch: made by :meth:`batch`.
        """

    def answer_ids(self, prompt: RegionPrompt, answer: str) -> list[int]:
        """Ids of a text as the answer to a prompt, without what ends it.

        Args:
            prompt: by :meth:`prompt`.
            answer: text.
        """

    def log_probs(self, batch: dict[str, Any], answers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probabilities float32 (n,) of the ids of an answer to each prompt of a batch.

        Args:
            batch: made by :meth:`batch`.
            answers: one list of ids for each prompt, by :meth:`answer_ids`.

        Raises:
            RegionError: naming the sample whose prompt and answer are too long.
        """

    def prompt_embeds(self, batch: dict[str, Any]) -> list[Tensor]:
        """Embeddings (L, D) of each prompt of a batch as the language model reads them, without padding.

        Args:
            batch: made by :meth:`batch`.

        Raises:
            ValueError: for a model whose language model needs more than these, with what it is.
        """

    def language_model(self) -> Any:
        """The language model alone, in transformers' class of it; it shares the tensors.

        Raises:
            ValueError: for a quantised one.
        """

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, so that it loads to the ids of the checkpoint that it came from.

        Args:
            folder: that is there.
        """

    def ends(self) -> Ends:
        """How an answer ends."""

    def answers(self, generated: Tensor, batch: dict[str, Any]) -> list[str]:
        """The texts of what ``generate`` returned (N, L), without the prompt.

        Args:
            generated: ids.
            batch: the arguments that it was called with.
        """
