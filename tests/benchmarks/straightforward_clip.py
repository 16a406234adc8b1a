"""CLIP's ModifiedResNet as RegionCLIP runs it: batch norms, in-place ReLU, contiguous maps, attention of all tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != 4 * width:
            conv = nn.Conv2d(channels, 4 * width, 1, bias=False)
            layers = {"-1": nn.AvgPool2d(stride), "0": conv, "1": nn.BatchNorm2d(4 * width)}
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn3(self.conv3(self.pool(F.relu(self.bn2(self.conv2(out)), inplace=True))))
        out += self.downsample(x)
        return F.relu(out, inplace=True)


class MultiHeadPool(nn.Module):
    """Self-attention of all tokens, as CLIP's first release and RegionCLIP have it; the mean token's row is kept.

    ``one_query`` lets the mean token alone ask, as CLIP's later release does.
    """

    def __init__(self, positions: int, dim: int, heads: int, output_dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(positions + 1, dim) / dim**0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.c_proj, self.heads = nn.Linear(dim, output_dim), heads
        self.one_query = False

    def forward(self, grid: Tensor) -> Tensor:
        tokens = grid.flatten(2).permute(2, 0, 1)  # (P * P, M, C)
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + self.positional_embedding[:, None]
        pooled, _ = F.multi_head_attention_forward(
            tokens[:1] if self.one_query else tokens,
            tokens,
            tokens,
            embed_dim_to_check=tokens.shape[2],
            num_heads=self.heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
            training=False,
            need_weights=False,
        )
        return pooled[0]  # (M, output_dim)


class StraightforwardCLIPResNet(nn.Module):
    """Its ``state_dict`` is CLIP's own layout, so it also makes checkpoints to load."""

    def __init__(self, layers: Sequence[int], width: int, heads: int, output_dim: int, pool: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for number, blocks in enumerate(layers):
            inner, stride = width * 2**number, 1 if number == 0 else 2
            stage = [Block(channels, inner, stride), *(Block(4 * inner, inner, 1) for _ in range(blocks - 1))]
            setattr(self, f"layer{number + 1}", nn.Sequential(*stage))
            channels = 4 * inner
        self.attnpool = MultiHeadPool((pool // 2) ** 2, channels, heads, output_dim)
        self.eval().requires_grad_(False)

    def trunk(self, pixels: Tensor) -> Tensor:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            pixels = F.relu(norm(conv(pixels)), inplace=True)
        x = F.avg_pool2d(pixels, 2)
        return self.layer3(self.layer2(self.layer1(x)))

    def head(self, pooled: Tensor) -> Tensor:
        return self.attnpool(self.layer4(pooled))


def randomize_batch_norms(model: nn.Module, seed: int = 0) -> None:
    """Statistics and affines away from their identity, so that folding has something to get wrong."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias, module.running_mean):
                tensor.data.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
