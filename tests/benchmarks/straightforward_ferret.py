"""Ferret's sampler as its paper states it: neighbours are gathered first, every one of them is projected."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pvit_ext.encoders.ferret.encoder import Ferret


def features_at(feature_map: Tensor, points: Tensor, view_sizes: Tensor, image_index: Tensor) -> Tensor:
    """Bilinear features (M, N, C) at points (M, N, 2), the pixels of a view that the map's cells tile."""
    grid = points / view_sizes[image_index][:, None] * 2 - 1
    sampled = F.grid_sample(feature_map[image_index], grid[:, :, None], padding_mode="border", align_corners=False)
    return sampled[..., 0].transpose(1, 2)


def chosen(values: Tensor, index: Tensor) -> Tensor:
    """values (M, N, C) at index (M, ...) -> (M, ..., C)."""
    return torch.stack([one[location] for one, location in zip(values, index, strict=True)])


def encode(encoder: Ferret, feature_map: Tensor, points: Tensor, view_sizes: Tensor, image_index: Tensor) -> Tensor:
    """What :meth:`Ferret.encode` computes."""
    features = features_at(feature_map, points, view_sizes, image_index)
    coordinates = points / view_sizes[image_index][:, None]
    for groups in encoder.rounds:
        kept = torch.zeros(len(points), 1, dtype=torch.int64, device=points.device)
        for _ in range(groups.groups - 1):
            to_kept = (coordinates[:, :, None] - chosen(coordinates, kept)[:, None]).square().sum(-1)
            kept = torch.cat([kept, to_kept.amin(2).argmax(1, keepdim=True)], 1)
        centres, centre_features = chosen(coordinates, kept), chosen(features, kept)
        distance = (centres[:, :, None] - coordinates[:, None]).square().sum(-1)
        near = distance.topk(groups.neighbors, largest=False).indices
        local = torch.cat([chosen(features, near), chosen(coordinates, near)], -1)
        anchor = torch.cat([centre_features, centres], -1)[:, :, None].expand_as(local)
        difference = F.linear(local - anchor, groups.difference.weight, groups.difference.bias)
        joint = torch.cat([difference, anchor], -1).flatten(0, 1).transpose(1, 2)  # (M * G, 2 C + 4, K)
        hidden = F.relu(F.conv1d(joint, groups.aggregate.weight, groups.aggregate.bias)).transpose(1, 2)
        norm = groups.norm
        hidden = F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps).unflatten(0, kept.shape)
        features, coordinates = hidden.amax(2) if groups.pooler == "max" else hidden.mean(2), centres
    tokens = encoder.flatten(features.reshape(len(points), encoder.tokens_per_region, -1))
    return tokens if encoder.output is None else encoder.output(tokens)
