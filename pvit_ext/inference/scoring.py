"""``score``: how likely a model finds given texts as answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pvit_ext.hosts.image_features import ImageFeatures
from pvit_ext.inference.asking import check_queries
from pvit_ext.inference.session import Session, naming_queries
from pvit_ext.tokens.query import Query


class Score(NamedTuple):
    """How likely a text is as the answer.

    Args:
        text: as it was given.
        log_likelihood: natural logarithm, the sum over its tokens; what ends an answer is none of them.
        tokens: how many it has.
    """

    text: str
    log_likelihood: float
    tokens: int

    @property
    def per_token(self) -> float:
        """The mean over the tokens, by which texts of different lengths compare; 0 for no token."""
        return self.log_likelihood / self.tokens if self.tokens else 0.0


def score(
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    queries: Sequence[Query],
    texts: Sequence[Sequence[str]],
    batch_size: int = 8,
    conv_version: str | None = None,
    system: str | None = None,
    features: ImageFeatures | None = None,
) -> list[list[Score]]:
    """How likely each text is as the answer to its query, by one forward pass over prompt and text.

    Args:
        model, tokenizer, image_processor, conv_version, system, features: as of :func:`~pvit_ext.ask`.
        queries: checked one by one before any is run.
        texts: of each query, those to score.
        batch_size: texts in one forward pass.

    Returns:
        a list for each query, in the order of its texts.

    Raises:
        RegionError: naming the query.
        ValueError: when there are not as many lists of texts as queries.
    """
    check_queries(queries, batch_size)
    if len(texts) != len(queries) or any(isinstance(one, str) for one in texts):
        raise ValueError(
            f"texts holds a list of texts for each of the {len(queries)} queries, got {len(texts)} of them"
        )
    session = Session(model, tokenizer, image_processor, conv_version, system, features)
    return score_in(session, queries, texts, batch_size)


def score_in(
    session: Session, queries: Sequence[Query], texts: Sequence[Sequence[str]], batch_size: int = 8
) -> list[list[Score]]:
    """:func:`score` within a session, whose images and beginnings of prompts are those of earlier calls too."""
    chat, prompts = session.chat, session.prompts(queries)
    ids = [[chat.answer_ids(prompt, text) for text in own] for prompt, own in zip(prompts, texts, strict=True)]
    rows = [(number, place) for number, own in enumerate(ids) for place, one in enumerate(own) if one]
    found = [[Score(text, 0.0, 0) for text in own] for own in texts]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        numbers = [number for number, _ in part]
        batch = session.batch([queries[one] for one in numbers], [prompts[one] for one in numbers], prefix=True)
        with naming_queries(numbers):
            each = chat.log_probs(batch, [ids[number][place] for number, place in part])
        for (number, place), own in zip(part, each, strict=True):
            found[number][place] = Score(texts[number][place], float(own.double().sum()), len(own))
    return found
