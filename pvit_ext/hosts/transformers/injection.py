"""Puts region tokens at their positions in the embedded prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pvit_ext.regions.region import RegionError


def align_right(tokens: Tensor, counts: Sequence[int]) -> Tensor:
    """Region tokens (M, S, D) of a batch -> (B, K, D), those of each sample at the right end.

    Args:
        tokens: in the order of the samples.
        counts: regions of each of the B samples.
    """
    samples = [one.flatten(0, 1).flip(0) for one in tokens.split(list(counts))]
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True).flip(1)  # (B, K, D)


def write_tokens(embeds: Tensor, here: Tensor, tokens: Tensor) -> Tensor:
    """Embeddings (B, L, D) with region tokens where their placeholders stand.

    Placeholders are counted from the right: with a cache the prompt is the end of a longer one.

    Args:
        embeds: of the prompt.
        here: (B, L) bool, positions of regions.
        tokens: (B, K, D), right-aligned.
    """
    samples, positions = here.nonzero(as_tuple=True)
    behind = here.flip(1).cumsum(1).flip(1)[samples, positions]  # this one and those to its right
    values = tokens.to(embeds)[samples, tokens.shape[1] - behind]
    return embeds.index_put((samples, positions), values)


def keep_in_graph(embeds: Tensor, tokens: Tensor) -> Tensor:
    """The same embeddings, through which region modules get gradients of zero.

    Under ZeRO every rank must run every module in every step, or the others wait for it for ever.
    """
    return embeds + (0.0 * tokens).sum().to(embeds)


def check_counts(ids: Tensor, token_id: int, counts: Sequence[int], per_region: int, continued: bool) -> None:
    """Compare the placeholders of a prompt with its regions.

    Args:
        ids: (B, L) of the prompt.
        token_id: of a region's position.
        counts: regions of each sample.
        per_region: S.
        continued: the prompt is the end of a longer one, whose beginning is in a cache.

    Raises:
        RegionError: naming the sample.
    """
    if len(counts) != len(ids):
        raise RegionError(f"regions holds {len(counts)} samples, input_ids {len(ids)}")
    for sample, (found, count) in enumerate(zip((ids == token_id).sum(1).tolist(), counts, strict=True)):
        if found and not count:
            raise RegionError(
                f"sample {sample}: the prompt has {found} position(s) of a region (id {token_id}), but no regions were "
                "given: pass all that RegionProcessor returns"
            )
        if found > count * per_region or (found < count * per_region and not continued):
            raise RegionError(
                f"sample {sample}: its {count} region(s) take {per_region} positions each, the prompt has {found} "
                f"(id {token_id}): make it with RegionProcessor, one <region> per region, and cut nothing off"
            )
