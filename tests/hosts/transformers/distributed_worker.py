"""One rank of two: three steps of training, the second rank without a region. Writes its losses to a file of FOLDER.

    torchrun --nproc_per_node 2 -m tests.hosts.transformers.distributed_worker FOLDER MODE FAMILY [text]

MODE is ddp, zero2 or zero3; with ``text`` the second rank has no image either.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.hosts.transformers.inputs import IMAGES, PLAIN, QUESTIONS, REGIONS, plain_batch, region_batch, with_regions


def batch_of(rank: int, model: Any, processor: Any, text: bool) -> dict[str, Any]:
    if rank == 0:
        batch = region_batch(model, processor, QUESTIONS[1:], REGIONS[1:], IMAGES[1:])
    elif text:
        batch = dict(processor.tokenizer(PLAIN[1:], return_tensors="pt"))
    else:
        batch = plain_batch(processor, PLAIN[1:], IMAGES[1:])
    return batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] < 8, -100)}


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def train_ddp(model: Any, batches: list[dict[str, Any]], rank: int) -> list[float]:
    """Gradients are the mean of those of each rank alone."""
    alone = []
    for batch in batches:
        model.zero_grad()
        model(**batch).loss.backward()
        alone.append(gradients(model))
    wrapped, losses = torch.nn.parallel.DistributedDataParallel(model), []
    for _ in range(3):
        model.zero_grad()
        loss = wrapped(**batches[rank]).loss
        loss.backward()
        losses.append(loss.item())
    for name, gradient in gradients(model).items():
        mean = sum(one.get(name, torch.zeros_like(gradient)) for one in alone) / 2
        torch.testing.assert_close(gradient, mean, atol=1e-6, rtol=1e-4)
    return losses


def train_zero(model: Any, batch: dict[str, Any], stage: int) -> list[float]:
    """The first loss is that of a model in one piece."""
    from pvit_ext.hosts.llava import cpu_launch

    cpu_launch.cpu_deepspeed_shm_op()
    import deepspeed

    with torch.no_grad():
        want = model(**batch).loss.item()
    zero = {"stage": stage, "contiguous_gradients": False, "overlap_comm": False}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": zero | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {}),
        "zero_allow_untested_optimizer": True,
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=trained, config=config)
    losses = []
    for _ in range(3):
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    assert abs(losses[0] - want) < 1e-4, (losses, want)
    return losses


def main(folder: str, mode: str, family: str, *more: str) -> None:
    rank = int(os.environ["RANK"])
    if mode == "ddp":
        dist.init_process_group("gloo")
    else:
        import deepspeed

        deepspeed.init_distributed("gloo")
    model, processor = with_regions(family)
    model.train()
    for name, parameter in model.model.named_parameters():
        parameter.requires_grad_(name.startswith("language_model."))
    batches = [batch_of(number, model, processor, "text" in more) for number in (0, 1)]
    losses = train_ddp(model, batches, rank) if mode == "ddp" else train_zero(model, batches[rank], int(mode[-1]))
    Path(folder, f"rank{rank}.json").write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
