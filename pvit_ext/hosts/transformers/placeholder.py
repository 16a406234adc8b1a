"""The ids that stand at positions of regions, hints and appended rows: rows of the embedding that nothing else uses."""

from __future__ import annotations

import logging
from typing import Any

import torch

from pvit_ext.config import APPENDED, RegionConfig
from pvit_ext.data.tags.tags import HINT_STYLE
from pvit_ext.distributed import gathered
from pvit_ext.prompt import HINT_PLACEHOLDER, REGION_PLACEHOLDER, ROW_PLACEHOLDER

logger = logging.getLogger(__name__)


def placeholders_of(config: RegionConfig) -> dict[str, str]:
    """The placeholders that a model's prompts need, by the name of their id in :class:`~.facts.HostFacts`.

    Args:
        config: of its region modules.
    """
    found = {"token_id": REGION_PLACEHOLDER}
    if config.lion_tags == HINT_STYLE:
        found["hint_token_id"] = HINT_PLACEHOLDER
    if config.lion_aggregator == APPENDED:
        found["row_token_id"] = ROW_PLACEHOLDER
    return found


def unread_of(tokenizer: Any, config: RegionConfig) -> tuple[str, ...]:
    """Placeholders that a tokenizer has from region modules of before, and that a model has no use for any more.

    No tokenizer forgets a token. Its id would be an ordinary one in a prompt, of a row that nobody trained.

    Args:
        tokenizer: of the model's processor.
        config: of its region modules.
    """
    wanted, unknown = placeholders_of(config).values(), (None, tokenizer.unk_token_id)
    others = [token for token in (HINT_PLACEHOLDER, ROW_PLACEHOLDER) if token not in wanted]
    return tuple(token for token in others if tokenizer.convert_tokens_to_ids(token) not in unknown)


def warn_of_unread(tokenizer: Any, config: RegionConfig) -> None:
    """Log what :func:`unread_of` finds, with what becomes of it."""
    if found := unread_of(tokenizer, config):
        logger.warning(
            "the tokenizer keeps %s, which the model reads no more: a prompt with it is refused; to have it as "
            "ordinary text, attach with the processor of a checkpoint that never had it",
            " and ".join(found),
        )


def claim_token(model: Any, tokenizer: Any, placeholder: str = REGION_PLACEHOLDER) -> int:
    """Make a placeholder one token with a row of the model's embedding, and return its id.

    Most checkpoints have more rows of the embedding than tokens. If there is no spare row, one is added, and the log
    says so. Region tokens, hint vector or rows replace it in the input, and generation with regions never writes it.

    Args:
        model: whose embedding grows if it must.
        tokenizer: gets the token, unless it has it.
        placeholder: ``<region>`` or another of :func:`placeholders_of`.

    Raises:
        ValueError: when the tokenizer gives the placeholder an id that another token has.
    """
    token_id = token_of(tokenizer, placeholder)
    rows = model.get_input_embeddings().num_embeddings
    if token_id >= rows:
        _add_rows(model, token_id + 1)
        logger.warning(
            "the model has no spare row for %s: its embedding grows from %d to %d rows", placeholder, rows,
            token_id + 1,
        )  # fmt: skip
    return token_id


def token_of(tokenizer: Any, placeholder: str = REGION_PLACEHOLDER) -> int:
    """Make a placeholder one token of a tokenizer, and return its id.

    Args:
        tokenizer: gets the token, unless it has it.
        placeholder: ``<region>`` or another of :func:`placeholders_of`.

    Raises:
        ValueError: when the tokenizer gives the placeholder an id that another token has.
    """
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    if placeholder not in known:
        tokenizer.add_tokens([AddedToken(placeholder, special=True, normalized=False)], special_tokens=True)
    token_id = int(tokenizer.convert_tokens_to_ids(placeholder))
    if other := [name for name, number in known.items() if number == token_id and name != placeholder]:
        raise ValueError(f"the tokenizer gives {placeholder} the id {token_id}, which {other[0]!r} has")
    return token_id


def _add_rows(model: Any, rows: int) -> None:
    """Add rows, each the mean of the others: a random row of the head could win over words."""
    before = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(rows, mean_resizing=False)
    parts = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad(), gathered([part.weight for part in parts], write=True):
        for part in parts:
            part.weight[before:] = part.weight[:before].float().mean(0).to(part.weight)
