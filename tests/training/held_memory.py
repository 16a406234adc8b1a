"""Bytes that the tensors of a real run hold, measured while it trains, in this process or on ranks of DeepSpeed's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pvit_ext.hosts.llava import compat

compat.prepare_training()

from pvit_ext.train import main  # noqa: E402
from pvit_ext.training.trainer import RegionTrainer  # noqa: E402


def held(tensors: Iterable[Any]) -> int:
    """Bytes of the storages of tensors, each once."""
    real = [one for one in tensors if isinstance(one, Tensor) and one.numel()]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in real}.values())


class Kept:
    """What backward keeps: bytes that are there now, and the most there ever were; weights do not count."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.weights = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
        self.users: dict[int, int] = {}
        self.now = self.most = self.tokens = 0

    def pack(self, tensor: Tensor) -> Any:
        return _Saved(tensor, self)

    def add(self, tensor: Tensor, sign: int) -> None:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self.weights or not key:
            return
        before = self.users.get(key, 0)
        self.users[key] = before + sign
        if before == 0 or before + sign == 0:
            self.now += sign * storage.nbytes()
            self.most = max(self.most, self.now)


class _Saved:
    def __init__(self, tensor: Tensor, kept: Kept) -> None:
        self.tensor, self.kept = tensor, kept
        kept.add(tensor, 1)

    def __del__(self) -> None:
        self.kept.add(self.tensor, -1)


def _scales(model: torch.nn.Module) -> Iterator[Any]:
    """What bitsandbytes keeps beside weights of few bits."""
    for one in model.parameters():
        state = getattr(one, "quant_state", None)
        yield from (getattr(part, "absmax", None) for part in (state, getattr(state, "state2", None)))
        yield getattr(one, "SCB", None)
    yield from (getattr(getattr(module, "state", None), "SCB", None) for module in model.modules())


@contextmanager
def _measuring(found: dict[str, Any]) -> Iterator[None]:
    """Fill ``found`` while a run trains."""
    step = RegionTrainer.training_step

    def training_step(trainer: Any, model: Any, *given: Any, **named: Any) -> Any:
        inner = trainer.accelerator.unwrap_model(trainer.model)
        found["steps"] = trainer.state.max_steps
        if "activations" in found:
            return step(trainer, model, *given, **named)
        kept = Kept(inner)
        seen: dict[str, Any] = {}
        base = getattr(inner, "get_base_model", lambda: inner)()
        language = getattr(base.base_model, "language_model", base.base_model)

        def look(_: Any, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            seen.update(shape=hidden.shape, padded=kwargs.get("attention_mask") is not None)

        hook = language.layers[0].register_forward_pre_hook(look, with_kwargs=True)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda saved: saved.tensor):
            loss = step(trainer, model, *given, **named)
        hook.remove()
        found["activations"], found["padded"], found["length"] = kept.most, seen["padded"], seen["shape"][1]
        if not hasattr(model, "optimizer"):
            found["gradients"] = held(one.grad for one in inner.parameters())
        return loss

    def note_end(trainer: Any) -> None:
        inner = trainer.accelerator.unwrap_model(trainer.model)
        weights = [getattr(one, "ds_tensor", one) for one in inner.parameters()]
        found["weights"] = held([*(one if one.numel() else None for one in weights), *_scales(inner), *inner.buffers()])
        states = trainer.optimizer.state.values()
        found["optimizer"] = held(value for state in states for value in state.values())

    train = RegionTrainer.train

    def trained(trainer: Any, *given: Any, **named: Any) -> Any:
        result = train(trainer, *given, **named)
        note_end(trainer)
        return result

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(RegionTrainer, "training_step", training_step))
        stack.enter_context(mock.patch.object(RegionTrainer, "train", trained))
        for patch in _deepspeed_patches(found):
            stack.enter_context(patch)
        yield


def _deepspeed_patches(found: dict[str, Any]) -> Iterator[Any]:
    """What DeepSpeed's optimizers hold when a step begins."""
    if "LOCAL_RANK" not in os.environ:
        return
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    def lists(value: Any) -> Iterator[Tensor]:
        for one in value.values() if isinstance(value, dict) else value or ():
            yield from lists(one) if isinstance(one, (list, tuple)) else [one]

    for kind, partitions in (
        (DeepSpeedZeroOptimizer, "single_partition_of_fp32_groups"),
        (DeepSpeedZeroOptimizer_Stage3, "fp32_partitioned_groups_flat"),
    ):
        step = kind.step

        def stepped(self: Any, *given: Any, step: Any = step, partitions: str = partitions, **named: Any) -> Any:
            flat = getattr(self, "grad_partitions_flat_buffer", None)
            kept = [flat] if flat is not None else list(lists(self.averaged_gradients))
            found["gradients"] = sum(
                one.nbytes for one in kept if one is not None
            )  # parts of tensors that straddle two
            result = step(self, *given, **named)
            found["master"] = held(getattr(self, partitions))
            return result

        yield mock.patch.object(kind, "step", stepped)


def measure(words: list[str]) -> dict[str, Any]:
    """Train, and return bytes of ``weights``, ``gradients``, ``optimizer`` and ``activations``, and ``steps``."""
    found: dict[str, Any] = {}
    with _measuring(found), mock.patch.object(sys, "argv", ["train", *words]):
        main()
    return found


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    result = measure(json.loads(arguments[1]))
    if os.environ["RANK"] == "0":
        Path(arguments[0]).write_text(json.dumps(result))
