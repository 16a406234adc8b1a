"""One rank of ``test_distributed``: torch's FSDP around a LLaVA with regions, against the whole model."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import pvit_ext
from tests.checkpoints import config, inputs, randomize


def main(checkpoint: str) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = randomize(pvit_ext.load_pretrained_model(checkpoint, region_config=config(), device="cpu")[1]).train()
    model.requires_grad_(True)
    for tower in (model.get_model().region_encoder, model.get_vision_tower()):
        tower.requires_grad_(False)
    batch = inputs()
    batch["labels"] = batch["input_ids"].clone().masked_fill(batch["input_ids"] < 0, -100)
    unsharded = model(**batch).loss
    unsharded.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    loss = model(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, unsharded)
    sharded = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(sharded, gradients, rtol=1e-4, atol=1e-6)
    local = dict(model.named_parameters())["model.region_projector.features.weight"].to_local()
    assert local.numel() * dist.get_world_size() == gradients["model.region_projector.features.weight"].numel()
    print(f"rank {dist.get_rank()}: {len(gradients)} gradients")


if __name__ == "__main__":
    main(sys.argv[1])
