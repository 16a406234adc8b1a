"""CLIP's attention pooling for its one query: keys and values are never formed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KeyProjection(nn.Linear):
    """A key projection applied to the query's side: ``q . (W x)`` is ``(q W) . x``.

    The key bias adds the same number to all of a query's logits, so softmax does not see it: there is none here.
    """

    def forward(self, query: Tensor) -> Tensor:
        """(M, heads, d) queries -> (M, heads, C) queries in token space."""
        heads = query.shape[1]
        weight = self.weight.view(heads, -1, self.in_features)  # (heads, d, C)
        return torch.bmm(query.transpose(0, 1), weight).transpose(0, 1)  # (M, heads, C)


class ValueProjection(nn.Linear):
    """A value projection applied after the weighted mean: attention sums to one, so both orders are equal."""

    def forward(self, mean: Tensor) -> Tensor:
        """(M, heads, C) weighted means of tokens -> (M, heads * d)."""
        heads = mean.shape[1]
        weight = self.weight.view(heads, -1, self.in_features)  # (heads, d, C)
        values = torch.bmm(mean.transpose(0, 1), weight.transpose(1, 2))  # (heads, M, d)
        return values.transpose(0, 1).flatten(1) + self.bias  # (M, heads * d)


class AttentionPool(nn.Module):
    """Multi-head attention of the mean token over all tokens, CLIP's ``AttentionPool2d``.

    Source: Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020), section 2.4.

    Args:
        positions: grid cells, the mean token not counted.
        dim: C, channels of a token.
        heads: attention heads.
        output_dim: channels of the result.
    """

    def __init__(self, positions: int, dim: int, heads: int, output_dim: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} channels do not divide into {heads} heads; change heads or width")
        self.heads = heads
        # An nn.Embedding, not a bare parameter: transformers 5 leaves bare ones uninitialised when a key is absent.
        self.positional_embedding = nn.Embedding(positions + 1, dim)
        nn.init.normal_(self.positional_embedding.weight, std=dim**-0.5)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = KeyProjection(dim, dim, bias=False)
        self.v_proj = ValueProjection(dim, dim)
        self.c_proj = nn.Linear(dim, output_dim)

    def forward(self, grid: Tensor) -> Tensor:
        """(M, C, P, P) features, best channels-last -> (M, output_dim)."""
        tokens = grid.permute(0, 2, 3, 1).flatten(1, 2)  # (M, P * P, C)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        tokens = tokens + self.positional_embedding(torch.arange(tokens.shape[1], device=tokens.device))
        query = self.q_proj(tokens[:, 0]).unflatten(1, (self.heads, -1))  # (M, heads, d)
        query = self.k_proj(query * query.shape[2] ** -0.5)  # (M, heads, C)
        attention = torch.bmm(query, tokens.transpose(1, 2)).float().softmax(2).to(tokens.dtype)  # (M, heads, T)
        return self.c_proj(self.v_proj(torch.bmm(attention, tokens)))  # (M, output_dim)
