"""LION's hint vector (arXiv 2311.11860): one learned embedding that says how far to rely on the tags of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvit_ext.distributed import gathered

START = 0.02
"""Standard deviation at the start: that of LLaMA's token embeddings. LION's is 1, that of T5's."""


class TagHint(nn.Embedding):
    """One vector (D,), the same for all samples and tasks; it stands where ``<hint>`` is in a prompt.

    Args:
        hidden_size: D, width of the language model.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(1, hidden_size)
        self.reset()

    def reset(self) -> None:
        """Draw it anew; a prompt without a hint does not see it."""
        with gathered([self.weight], write=True):
            nn.init.normal_(self.weight, std=START)

    def write(self, embeds: Tensor, here: Tensor) -> Tensor:
        """Embeddings (B, L, D) with the vector at the positions ``here``, (B, L) bool.

        It is in the graph without any position too: under ZeRO every rank must run every module in every step.
        """
        vector = self(torch.zeros(1, dtype=torch.long, device=self.weight.device))  # (1, D)
        return torch.where(here[..., None].to(embeds.device), vector.to(embeds), embeds)
