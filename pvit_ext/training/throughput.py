"""How fast training goes: samples, tokens and regions per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


class Throughput:
    """Counts what a model is trained on, by hooks, and the seconds it takes, by a clock that can pause.

    A token is a position of the language model's input: text, image patches and region tokens, without padding. Regions
    count if they take positions; an encoder that names them in the text has none. What a model gets without names is
    not counted.

    Args:
        model: with regions, possibly inside peft's wrapper, as the trainer calls it.
    """

    def __init__(self, model: Any) -> None:
        self._reset()
        self._mark: float | None = None
        model.register_forward_pre_hook(self._count_batch, with_kwargs=True)
        _inner(model).register_forward_pre_hook(self._count_tokens, with_kwargs=True)

    def _reset(self) -> None:
        self.samples, self.regions, self.seconds = 0, 0, 0.0
        self.tokens: Tensor | int = 0

    def _count_batch(self, module: Any, _: Any, inputs: dict[str, Any]) -> None:
        if module.training:  # not when it answers
            self.samples += len(given) if (given := _positions(inputs)) is not None else 0
            self.regions += sum(len(own or ()) for own in inputs.get("regions") or ())

    def _count_tokens(self, module: Any, _: Any, inputs: dict[str, Any]) -> None:
        if module.training and (given := _positions(inputs)) is not None:
            self.tokens = self.tokens + given.sum()  # stays on the device: no wait

    def start(self) -> None:
        """Let the clock run from now: the time since :meth:`stop` was no training."""
        self._mark = time.perf_counter()

    def start_first(self) -> None:
        """Start a clock that never ran: a resumed run skips data before its first step."""
        if self._mark is None:
            self.start()

    def stop(self, wait: bool) -> None:
        """Add the seconds since the start.

        Args:
            wait: for the device to finish what it was given.
        """
        if wait and torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._mark is not None:
            self.seconds += time.perf_counter() - self._mark

    def rates(self, gather: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """Per second since the last call, all processes together; every process has to call it.

        Args:
            gather: (1, 4) of each of R processes -> (R, 4).
            device: where processes exchange tensors.
        """
        own = [self.samples, float(self.tokens), self.regions, self.seconds]
        counts = gather(torch.tensor([own], dtype=torch.float64, device=device))  # (R, 4)
        self._reset()
        totals, seconds = counts.sum(0).tolist(), max(float(counts[:, 3].max()), 1e-9)
        names = ("samples_per_second", "tokens_per_second", "regions_per_second")
        return {name: total / seconds for name, total in zip(names, totals[:3], strict=True)}


def _positions(inputs: dict[str, Any]) -> Tensor | None:
    """Which positions of a batch are no padding, (B, L): by the mask, or all of them; None where nothing says."""
    if (mask := inputs.get("attention_mask")) is not None:
        return cast("Tensor", mask)
    if (embeds := inputs.get("inputs_embeds")) is not None:
        return torch.ones_like(embeds[..., 0], dtype=torch.long)
    ids = inputs.get("input_ids")
    return None if ids is None else torch.ones_like(ids)


def _inner(model: Any) -> Any:
    """The model without its head: LLaVA's names it by a method, transformers' own by ``base_model``, others not."""
    outer = getattr(model, "get_base_model", lambda: model)()
    return outer.get_model() if hasattr(outer, "get_model") else getattr(outer, "base_model", outer)
