"""What LLaVA, DeepSpeed and accelerate need to train on a machine without an accelerator: small shims, as in compat."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import sys
from typing import Any

import torch


def cpu_deepspeed_backend() -> None:
    """accelerate finds no backend for a DeepSpeed launch without an accelerator and then counts one process.

    Answer gloo, which it knows for CPU launches of its own; DeepSpeed itself must have started that backend before.
    Older versions (0.21 to 0.27) take the device for a CUDA one unless told.
    """
    if "LOCAL_RANK" not in os.environ or importlib.util.find_spec("deepspeed") is None:
        return
    import accelerate.state
    import deepspeed

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="gloo")
    state = accelerate.state.PartialState
    if not hasattr(state, "_prepare_backend"):
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
        return
    if hasattr(state._prepare_backend, "stock"):
        return
    stock = state._prepare_backend

    def prepare_backend(self: Any, *args: Any, **kwargs: Any) -> Any:
        backend, kind = stock(self, *args, **kwargs)
        return (backend, kind) if backend is not None else ("gloo", accelerate.state.DistributedType.MULTI_CPU)

    prepare_backend.stock = stock  # type: ignore[attr-defined]
    state._prepare_backend = prepare_backend


def cpu_deepspeed_shm_op() -> None:
    """DeepSpeed compiles a shared-memory kernel for a minute at the first CPU launch; gloo does the same job.

    A launch that is killed while it compiles or loads that kernel leaves a lock on which all later ones wait forever.
    """
    if "LOCAL_RANK" not in os.environ or importlib.util.find_spec("deepspeed") is None:
        return
    backend: Any = importlib.import_module("deepspeed.comm.torch")  # as an attribute that name is torch itself
    if hasattr(backend, "build_shm_op"):
        backend.build_shm_op = lambda: None


def enable_cpu(arguments: Any) -> None:
    """transformers 5 refuses ``--bf16`` on a machine without an accelerator unless told to use the CPU.

    accelerate 0.27 and older would then not use DeepSpeed.
    """
    import accelerate.state

    if hasattr(accelerate.state.PartialState, "_prepare_backend") and not torch.cuda.is_available():
        arguments.use_cpu = True


def cpu_tower_dtype(model: Any) -> None:
    """LLaVA puts its vision tower into float16 without ``--bf16``; CPUs lack kernels for it (torch 2.0) or are slow."""
    tower = model.get_vision_tower()
    if tower.device.type == "cpu" and tower.dtype == torch.float16:
        tower.to(torch.float32)


def leave_cpu_group(status: int = 0, wait: bool = True) -> None:
    """End a finished CPU launch at once: gloo's threads aborted 3 of 20 two-rank ZeRO-3 runs at interpreter exit.

    Args:
        status: of the process.
        wait: for the other ranks; not after an error, which they may not have met.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()) or torch.cuda.is_available():
        return
    if wait:
        torch.distributed.barrier()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
