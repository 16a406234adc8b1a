"""LION's mixture of adapters: one small adapter for each task beside a feed-forward layer, and gates that mix them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pvit_ext.distributed import gathered


class Adapter(nn.Module):
    """``s (U relu(D x + a) + b)``; U, a and b are zero at the start, so that it adds nothing.

    Args:
        width: of the language model.
        hidden: between D and U.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Embedding(1, 1)  # no bare parameter: transformers 5 leaves one that a checkpoint lacks unfilled

    def reset(self) -> None:
        """Give all tensors their start values."""
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)
        nn.init.ones_(self.scale.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, D) -> (B, L, D)."""
        scale = self.scale(torch.zeros(1, dtype=torch.long, device=x.device))  # (1, 1)
        out: Tensor = scale * self.up(self.down(x).relu())
        return out


class MixtureOfAdapters(nn.Module):
    """What a feed-forward layer F gets added: ``O = F(X) + sum_k G_k[t] H_k(X)``, with X as F gets it.

    G holds a row for each task t and adapter k, with a value for each channel; at the start each task has its own
    adapter alone. X is normalised, as in the group's later model on LLaMA (MoME); LION's own code on T5 reads the
    residual stream before the norm, which has channels in the thousands on LLaMA.

    Args:
        width: D, of the language model.
        hidden: of each adapter; LION has 64.
        tasks: how many there are, and as many adapters.
    """

    def __init__(self, width: int, hidden: int, tasks: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(width, hidden) for _ in range(tasks))
        self.gates = nn.Embedding(tasks, tasks * width)
        self.reset()

    def reset(self) -> None:
        """Give all tensors their start values."""
        with gathered(list(self.parameters()), write=True):
            for adapter in self.adapters:
                adapter.reset()  # type: ignore[operator]
            tasks = len(self.adapters)
            own = torch.eye(tasks).repeat_interleave(self.gates.embedding_dim // tasks, 1)  # (T, T * D)
            with torch.no_grad():
                self.gates.weight.copy_(own)

    def forward(self, x: Tensor, mix: Tensor) -> Tensor:
        """What is added for a batch, (B, L, D).

        Args:
            x: (B, L, D), what the feed-forward layer gets.
            mix: (B, T), for each sample the weight of each task's row of gates; one-hot where the task is known.

        Raises:
            ValueError: when the two are of different batches.
        """
        if x.ndim != 3 or len(x) != len(mix):
            raise ValueError(
                f"hidden states {tuple(x.shape)} with the tasks of {len(mix)} sample(s): give one for each"
            )
        x = x.to(self.gates.weight.dtype)
        tasks = torch.arange(len(self.adapters), device=x.device)
        gates = (mix.to(x) @ self.gates(tasks)).unflatten(1, (len(tasks), 1, -1))  # (B, K, 1, D)
        added = torch.zeros_like(x)
        for gate, adapter in zip(gates.unbind(1), self.adapters, strict=True):
            added = added + gate * adapter(x)
        return added


class Mixtures(nn.ModuleList):
    """The mixtures of all blocks of a language model, the first block's first."""

    def reset(self) -> None:
        """Give all tensors their start values."""
        for mixture in self:
            mixture.reset()  # type: ignore[operator]
