"""Work of several processes: parameters that ZeRO-3 has partitioned, and passes that every rank has to make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def gathered(parameters: Sequence[Tensor], write: bool = False) -> Any:
    """DeepSpeed's gathering context where ZeRO-3 has partitioned the parameters, else ``no_grad``.

    Args:
        parameters: to be whole inside the block.
        write: keep what rank 0 writes to them.
    """
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        return torch.no_grad()
    from deepspeed import zero

    return zero.GatheredParameters(partitioned, modifier_rank=0 if write else None)


def loading() -> AbstractContextManager[Any]:
    """A context in which a model is loaded to train: what is made after it starts as ``--seed`` says, under ZeRO-3 too.

    transformers makes a model on the meta device, where nothing is drawn, but under ZeRO-3 a real one, whose bare
    parameters draw random numbers; LoRA and projectors would then start from others than on one process (seen with
    5.23 and CLIP's class embedding). Versions without ``get_init_context`` draw alike on both ways.
    """
    from transformers import PreTrainedModel

    if not hasattr(PreTrainedModel, "get_init_context"):
        return nullcontext()
    return torch.random.fork_rng(devices=[])  # modules are made on the CPU


def most_passes(own: int, parameter: Tensor) -> int:
    """How often every rank has to run a module that this one would run ``own`` times: more often only under ZeRO-3.

    Under ZeRO-3 each run of a module gathers its parameters from all ranks. A rank that runs it less often than another
    lets that one wait (seen with deepspeed 0.19.8 and two ranks: gloo aborts, NCCL would hang).

    Args:
        own: runs on this rank.
        parameter: one of the module's.
    """
    if not (hasattr(parameter, "ds_id") and torch.distributed.is_initialized()):
        return own
    most = torch.tensor(own, device=parameter.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def cpu_copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of parameters on the CPU, each gathered from all ranks under ZeRO-3; every rank has to call it.

    A parameter with several names is copied once.
    """
    copies: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    for name, parameter in named:
        known = first.setdefault(id(parameter), name)
        if known != name:
            copies[name] = copies[known]
            continue
        with gathered([parameter]):
            copies[name] = parameter.detach().cpu().clone()
    return copies
