"""Adapters chosen by the question, where nobody says its task: MoME's top-1 gate on an embedding of the question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pvit_ext.adapters.lion.tasks import has_values, mix_of
from pvit_ext.config import CONFIG_KEY, regions_from_json
from pvit_ext.distributed import gathered
from pvit_ext.regions.region import RegionError

_HIDDEN = 384
_INTEGERS = (torch.int64, torch.int32)
QUESTIONS = "questions"
"""Key of an item, and keyword of a model: the words of each sample's questions."""


class QuestionRouter(nn.Module):
    """Two layers from the mean of a question's word embeddings to one choice, straight through for gradients.

    The words' embeddings are the language model's own; MoME takes a sentence encoder beside it.

    Args:
        width: D, of the language model.
        tasks: K, to choose from.
    """

    def __init__(self, width: int, tasks: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden, self.choice = nn.Linear(width, _HIDDEN), nn.Linear(_HIDDEN, tasks)

    def reset(self) -> None:
        """Give all tensors their start values; different questions then go to different adapters, which add nothing."""
        with gathered(list(self.parameters()), write=True):
            for layer in (self.norm, self.hidden, self.choice):
                layer.reset_parameters()

    def forward(self, questions: Tensor) -> Tensor:
        """Embedded questions (B, D) -> (B, K), one-hot, with the gradient of a softmax."""
        soft = self.choice(self.hidden(self.norm(questions.to(self.norm.weight.dtype))).relu()).float().softmax(-1)
        hard = nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).float()
        mix: Tensor = hard + (soft - soft.detach())  # exactly one-hot
        return mix

    def route(self, embed: Callable[[Tensor], Tensor], questions: Tensor) -> Tensor:
        """The choice (B, K) for a batch.

        Args:
            embed: the language model's embedding of ids.
            questions: from :func:`pad_questions`.

        Raises:
            RegionError: for ids that the language model does not have.
        """
        _check_ids(questions, getattr(embed, "num_embeddings", None))
        words = (questions > 0)[..., None]  # (B, Q, 1)
        with torch.no_grad():
            embedded = embed((questions - 1).clamp(min=0)).float()  # (B, Q, D)
        mean = (embedded * words).sum(1) / words.sum(1).clamp(min=1)  # (B, D)
        chosen: Tensor = self(mean)
        return chosen


def pad_questions(ids: Sequence[Sequence[int]]) -> Tensor:
    """Ids of each sample's questions as one tensor (B, Q): each plus one, and zeros behind a shorter one."""
    return nn.utils.rnn.pad_sequence([torch.tensor(list(own), dtype=torch.long) + 1 for own in ids], batch_first=True)


def _check_form(questions: Any) -> None:
    """Refuse what is no tensor (B, Q) of whole numbers."""
    if not isinstance(questions, Tensor) or questions.ndim != 2 or questions.dtype not in _INTEGERS:
        what = f"{tuple(questions.shape)} of {questions.dtype}" if isinstance(questions, Tensor) else repr(questions)
        raise RegionError(
            f"questions is {what}: give whole numbers (B, Q), as pvit_ext.adapters.lion.router.pad_questions "
            "makes them of the ids of each sample's questions"
        )


def _check_ids(questions: Tensor, rows: int | None) -> None:
    """Refuse ids beyond the language model's rows; the device is waited for once."""
    if rows is None or not has_values(questions) or not questions.numel():
        return
    least, most = (torch.stack(torch.aminmax(questions)) - 1).tolist()
    if least < -1 or most >= rows:
        raise RegionError(
            f"questions holds the id {most if most >= rows else least}, the language model has 0 to {rows - 1}: make "
            "them of its own tokenizer's ids"
        )


def mix_of_batch(
    config: Any,
    router: QuestionRouter | None,
    embeddings: Callable[[], Callable[[Tensor], Tensor]],
    tasks: Tensor | Sequence[str | int | None] | None,
    regions: Sequence[Any] | None,
    batch: Tensor | None,
    questions: Tensor | None,
    continued: Callable[[], bool] = lambda: False,
) -> Tensor | None:
    """Weights (B, T) of each task's gates, as a host's ``forward`` and ``generate`` get their arguments.

    A model without adapters returns before anything is parsed, or read from a device: each step of decoding comes here,
    and ``torch.compile`` would break its graph.

    Args:
        config: of the host, with region modules under their key.
        router: the model's, or None.
        embeddings: gives the language model's input embeddings.
        tasks: see :func:`~pvit_ext.adapters.lion.tasks.mix_of`.
        regions: of each sample, or None for a batch without.
        batch: (B, ...) ids or embeddings, which say how many samples there are then; embeddings may hold regions.
        questions: (B, L) ids of each sample's questions, or None.
        continued: whether the batch goes on from a cache.

    Raises:
        RegionError: for tasks or questions that are none, or that the model has no use for.
    """
    values = getattr(config, CONFIG_KEY, None) or {}
    if tasks is None and questions is None and not values.get("lion_adapters"):
        return None
    samples = regions or [None] * (0 if batch is None else len(batch))
    choose = None
    if questions is not None:
        if router is None:
            raise RegionError(
                "questions were given, but the model does not choose its adapters by them: leave them out, or "
                'RegionConfig(lion_adapters=64, lion_routing="question")'
            )
        _check_form(questions)
        if len(questions) != len(samples):
            raise RegionError(f"questions holds {len(questions)}, the batch {len(samples)} sample(s)")
        choose = partial(router.route, embeddings(), questions)
    stored = regions_from_json(values).config if values else None
    embedded = batch is not None and batch.is_floating_point()
    shown = [None if embedded and not one else bool(one) for one in samples]
    return mix_of(stored, tasks, shown, continued(), choose)
