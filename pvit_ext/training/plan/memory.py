"""Bytes per GPU of weights, gradients and optimizer states, by what trains, its dtypes, and how it is sharded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pvit_ext.adapters.layers import find_all_linear_names
from pvit_ext.training.plan.optimizers import state_bytes
from pvit_ext.training.plan.sharding import Sharding

_BLOCK = 64
"""Weights of 4 bits that share a scale; where scales are quantised too, 256 of them share a float32 one."""


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Args:
        weights, gradients, optimizer: on each GPU, for as long as the run lasts; the optimizer's with its float32 copy
            of what trains.
        buffers: in which gradients are exchanged.
        gathered: weights of other GPUs that one may hold at a time (ZeRO-3).
        step: the float32 copy of gradients that DeepSpeed makes when a step ends, after activations are freed.
        host: in the machine's memory, for each GPU.
    """

    weights: float
    gradients: float
    optimizer: float
    buffers: float = 0.0
    gathered: float = 0.0
    step: float = 0.0
    host: float = 0.0

    @property
    def states(self) -> float:
        """All that lasts, on a GPU."""
        return self.weights + self.gradients + self.optimizer + self.buffers + self.gathered

    def to_json(self) -> dict[str, int]:
        """Whole bytes."""
        return {name: round(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Tensors:
    """The parameters of a model on the meta device.

    Args:
        trained, frozen: of full weights, each once.
        quantized: bytes of those that are stored in few bits, and of their scales.
        buffers: tensors that are no parameters, such as what some tuners of peft keep of the weights under them.
    """

    trained: tuple[Tensor, ...]
    frozen: tuple[Tensor, ...]
    quantized: float
    buffers: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, model: Any, training: Any) -> Tensors:
        """The tensors of a run's model.

        Args:
            model: of either host, possibly inside peft's wrapper.
            training: flags with LLaVA's ``bits`` and ``double_quant``.
        """
        few = {id(one): one for one in _linear_weights(model) if not one.requires_grad} if training.bits < 16 else {}
        full = [one for one in model.parameters() if id(one) not in few]
        return cls(
            tuple(one for one in full if one.requires_grad),
            tuple(one for one in full if not one.requires_grad),
            sum(_quantized_bytes(one, training.bits, training.double_quant) for one in few.values()),
            tuple(model.buffers()),
        )


def count_memory(tensors: Tensors, sharding: Sharding, optimizer: str) -> Memory:
    """The memory of a run's states.

    Args:
        tensors: of its model.
        sharding: over GPUs.
        optimizer: one of :data:`~pvit_ext.training.plan.optimizers.KNOWN`.
    """
    if sharding.dtype is None:
        return _without_deepspeed(tensors, sharding.gpus, optimizer)
    return _offloaded(_with_deepspeed(tensors, sharding, optimizer), sharding)


def _without_deepspeed(tensors: Tensors, gpus: int, optimizer: str) -> Memory:
    """Every GPU holds everything; two or more exchange gradients in copies of them."""
    trained = sum(_bytes(one) for one in tensors.trained)
    return Memory(
        weights=trained + sum(_bytes(one) for one in (*tensors.frozen, *tensors.buffers)) + tensors.quantized,
        gradients=trained,
        optimizer=sum(state_bytes(optimizer, one.shape, one.element_size()) for one in tensors.trained),
        buffers=trained if gpus > 1 else 0,
    )


def _with_deepspeed(tensors: Tensors, sharding: Sharding, optimizer: str) -> Memory:
    size, gpus, stage = sharding.itemsize, sharding.gpus, sharding.stage
    trained, every = _elements(tensors.trained), _elements((*tensors.trained, *tensors.frozen))
    own = _shares(tensors.trained, sharding) if stage == 3 else trained / gpus if stage else trained
    held = _shares((*tensors.trained, *tensors.frozen), sharding, kept=True) if stage == 3 else every
    # ZeRO copies float32 weights too: stage 3 compares a device with its name, and never finds that it need not.
    copy = 0.0 if size == 4 and not stage else 4.0 * own
    states = state_bytes(optimizer, (math.ceil(own),), 4)
    if not stage:  # tensors stay apart
        states = sum(state_bytes(optimizer, one.shape, 4) for one in tensors.trained)
    return Memory(
        weights=held * size + tensors.quantized + _cast_bytes(tensors.buffers, size),
        gradients=(own if stage >= 2 else trained) * size,
        optimizer=copy + states,
        buffers=min(sharding.bucket, trained) * size * sharding.buffers,
        gathered=min(sharding.live, every) * size if stage == 3 and gpus > 1 else 0.0,
        step=4.0 * own if size < 4 else 0.0,
    )


def _offloaded(memory: Memory, sharding: Sharding) -> Memory:
    """What is moved to the machine's memory."""
    found = asdict(memory)
    if sharding.offload_optimizer:  # gradients go there as soon as they are made
        found["host"] += memory.optimizer + max(memory.gradients, memory.step)
        found["optimizer"] = found["gradients"] = found["step"] = 0.0
    if sharding.offload_parameters and sharding.stage == 3:
        found["host"] += memory.weights
        found["weights"] = 0.0
        found["gathered"] = memory.gathered or min(memory.weights, sharding.live * sharding.itemsize)
    return Memory(**found)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _cast_bytes(buffers: tuple[Tensor, ...], size: int) -> int:
    """Bytes of buffers where DeepSpeed casts a model; it partitions none of them."""
    return sum(one.numel() * (size if one.is_floating_point() else one.element_size()) for one in buffers)


def _elements(tensors: tuple[Tensor, ...]) -> int:
    return sum(one.numel() for one in tensors)


def _shares(tensors: tuple[Tensor, ...], sharding: Sharding, kept: bool = False) -> int:
    """Elements that stage 3 leaves on a GPU: its share of each tensor, and, if ``kept``, small ones as they are."""
    sizes = [one.numel() for one in tensors]
    return sum(size if kept and size < sharding.threshold else math.ceil(size / sharding.gpus) for size in sizes)


def _linear_weights(model: Any) -> Iterator[Tensor]:
    """The weights that bitsandbytes quantises: those of the language model's linear layers."""
    base = getattr(model, "get_base_model", lambda: model)()
    pattern = re.compile(find_all_linear_names(base))
    for name, module in base.named_modules():
        plain = getattr(module, "base_layer", module)  # under an adapter
        if pattern.fullmatch(name) or pattern.fullmatch(name.removesuffix(".base_layer")):
            yield plain.weight


def _quantized_bytes(weight: Tensor, bits: int, double: bool) -> float:
    """Bytes of a weight in few bits, with its scales."""
    elements = weight.numel()
    if bits == 8:
        return elements + 4.0 * weight.shape[0]
    scales = elements / _BLOCK
    return elements / 2 + (scales * (1 + 4 / 256) if double else 4 * scales)
