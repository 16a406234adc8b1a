"""How likely a model finds texts as answers: what hosts share of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.prefix import laid_out, positions_of

IGNORE_INDEX = -100


def behind_prompt(said: Callable[[str | None], str], answer: str) -> str:
    """An answer and what a template writes between it and the end of its prompt; nothing for an empty answer.

    Args:
        said: a conversation with an answer, or one that waits for it.
        answer: text; the template's own may hold it too, so that it is not looked for there.
    """
    prompt, one, other = map(said, (None, "a", "b"))
    if not answer or not one.startswith(prompt) or not other.startswith(prompt):
        return answer
    pairs = zip(one[len(prompt) :], other[len(prompt) :], strict=False)
    return "".join(letter for letter, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) + answer


def ids_behind(
    encode: Callable[[str], list[int]], alone: Callable[[str], list[int]], prompt: str, text: str
) -> list[int]:
    """Ids of a text behind a prompt, as the tokenizer writes both in one; the prompt's own stay what they are.

    Args:
        encode: a text with its placeholders, to ids.
        alone: the text by itself, where its first letters would change the prompt's last id.
        prompt: text.
        text: that follows.
    """
    before, both = encode(prompt), encode(prompt + text)
    return both[len(before) :] if both[: len(before)] == before else alone(text)


def with_answers(values: Tensor, mask: Tensor, answers: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows (B, L) of left-padded prompts, with ids behind them -> (B, L'), padded on the right.

    Args:
        values: of the prompts' positions.
        mask: (B, L) 1 where a prompt stands.
        answers: B lists of what comes behind.
        fill: for padding.
    """
    rows = [
        torch.cat([row[here.bool()], row.new_tensor(own)]) for row, here, own in zip(values, mask, answers, strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)  # (B, L')


def behind_beginning(
    rows: Sequence[Tensor], answers: Sequence[Sequence[int]], cache: Any
) -> tuple[Tensor, dict[str, Any], Tensor]:
    """What a model reads behind a beginning that has been read: rows (B, L, ...), other arguments, and labels (B, L).

    Args:
        rows: (L_i, ...) ids or embeddings of each prompt with its answer, without padding.
        answers: B lists of ids.
        cache: keys and values of the beginning, for each row.
    """
    begin, labels = int(cache.get_seq_length()), []
    for row, own in zip(rows, answers, strict=True):
        ids = torch.tensor(own, device=row.device)
        labels.append(torch.cat([ids.new_full((len(row) - len(own),), IGNORE_INDEX), ids]))
    here = laid_out([torch.ones_like(one) for one in labels], begin)  # (B, L of all)
    given = {"attention_mask": here, "position_ids": positions_of(here)[:, begin:], "past_key_values": cache}
    return laid_out(rows, begin)[:, begin:], given, laid_out(labels, begin, IGNORE_INDEX)[:, begin:]


def log_probs_of(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Log-probabilities float32 (n,) of each row's labelled ids.

    Args:
        logits: (B, L, V), of the next id.
        labels: (B, L), :data:`IGNORE_INDEX` where nothing is asked.
    """
    found = []
    for row, wanted in zip(logits, labels, strict=True):
        places = (wanted != IGNORE_INDEX).nonzero().flatten()
        scores = row[places - 1].float().log_softmax(-1)  # (n, V)
        found.append(scores.gather(1, wanted[places, None])[:, 0])
    return found
