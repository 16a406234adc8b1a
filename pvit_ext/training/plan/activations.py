"""What a forward pass keeps for the backward pass: the model's own code run on tensors that have shapes but no memory.

torch's fake tensors take the way of real ones on a CPU, autocast and kernels of attention included; those of a GPU that
need no table of attention weights keep the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pvit_ext.adapters.lion.tasks import any_task

_BEFORE, _AFTER = -1, -2
"""Sections of a forward pass beside the numbers of blocks."""


@dataclass(frozen=True)
class Activations:
    """Bytes on a GPU for one micro-batch.

    Args:
        saved: tensors that autograd saves: all at the end of the forward pass, with checkpointing the most at a time.
        peak: the same with the gradient of the logits in float32, from which the backward pass starts.
    """

    saved: float
    peak: float

    def to_json(self) -> dict[str, int]:
        """Whole bytes."""
        return {name: round(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Precision:
    """In what a step computes.

    Args:
        weights: dtype of all weights, None for each its own (DeepSpeed casts them).
        autocast: dtype of torch's autocast, None without it.
    """

    weights: torch.dtype | None = None
    autocast: torch.dtype | None = None

    @classmethod
    def of(cls, training: Any, deepspeed: torch.dtype | None) -> Precision:
        """Of a run.

        Args:
            training: its flags.
            deepspeed: dtype of DeepSpeed's model, None without it.
        """
        if deepspeed is not None:
            return cls(weights=deepspeed)
        return cls(autocast=torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None)


def count_activations(model: Any, batch: int, length: int, checkpointing: bool, precision: Precision) -> Activations:
    """Count them; no memory is taken.

    Args:
        model: on the meta device, of either host, possibly inside peft's wrapper.
        batch: samples of a micro-batch.
        length: positions of its longest sample.
        checkpointing: blocks are computed again in the backward pass.
        precision: in what a step computes.
    """
    base = getattr(model, "get_base_model", lambda: model)()
    blocks = _blocks(base)
    count = _Count()
    width = base.get_input_embeddings().weight.shape[1]
    with _fake(base, precision) as (weights, call):
        count.ignored = {storage._cdata for storage in weights}
        with count.sections(blocks), saved_tensors_hooks(count.pack, lambda saved: saved):
            dtype = precision.weights or base.get_input_embeddings().weight.dtype
            learns = checkpointing or _learns_before(base, blocks)  # checkpointing asks for gradients of inputs always
            inputs = torch.empty(batch, length, width, dtype=dtype, requires_grad=learns)
            labels = torch.zeros(batch, length, dtype=torch.long)
            logits = call(inputs_embeds=inputs, labels=labels, use_cache=False, **any_task(base, batch)).logits
    return Activations(count.most(checkpointing), count.most(checkpointing, 4 * logits.numel()))


class _Count:
    """Bytes that are saved, by section; a tensor counts where it is saved first."""

    def __init__(self) -> None:
        self.ignored: set[int] = set()
        self.held: dict[int, Any] = {}  # else another tensor could take its id
        self.saved: dict[int, int] = {}
        self.inputs: dict[int, int] = {}
        self.section = _BEFORE

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.ignored and storage._cdata not in self.held:
            self.held[storage._cdata] = storage
            self.saved[self.section] = self.saved.get(self.section, 0) + storage.nbytes()
        return tensor

    @contextmanager
    def sections(self, blocks: nn.ModuleList) -> Iterator[None]:
        """Know the block that runs."""

        def begin(block: nn.Module, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.section = numbers[id(block)]
            self.inputs[self.section] = hidden.untyped_storage().nbytes()

        def end(block: nn.Module, args: Any, output: Any) -> None:
            self.section = _AFTER

        numbers = {id(block): number for number, block in enumerate(blocks)}
        with ExitStack() as stack:
            for block in blocks:
                stack.callback(block.register_forward_pre_hook(begin, with_kwargs=True).remove)
                stack.callback(block.register_forward_hook(end).remove)
            yield

    def most(self, checkpointing: bool, gradient: int = 0) -> int:
        """The most at a time: all of it, or with checkpointing the inputs of blocks and the largest section.

        Args:
            checkpointing: blocks are computed again.
            gradient: bytes that are there too while all that follows the blocks is.
        """
        after = self.saved.get(_AFTER, 0) + gradient
        others = [size for section, size in self.saved.items() if section not in (_AFTER, _BEFORE)]
        if not checkpointing:
            return self.saved.get(_BEFORE, 0) + sum(others) + after
        return self.saved.get(_BEFORE, 0) + sum(self.inputs.values()) + max(after, *others)


def _blocks(base: Any) -> nn.ModuleList:
    """The blocks of a model's language model: its longest list of modules."""
    language = getattr(base.base_model, "language_model", None) or base.base_model
    lists = [module for module in language.children() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(language).__name__} has no list of blocks: its activations are not known")
    return max(lists, key=len)


def _learns_before(base: Any, blocks: nn.ModuleList) -> bool:
    """Whether anything trains that the inputs of the blocks are made by; LION's adapters are within blocks."""
    within = {id(one) for one in (*blocks.parameters(), base.get_output_embeddings().weight)}
    return any(one.requires_grad and id(one) not in within for one in base.parameters())


@contextmanager
def _fake(base: Any, precision: Precision) -> Iterator[tuple[list[Any], Any]]:
    """Storages of the weights, and the model's forward, on tensors without memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    tensors = {**dict(base.named_parameters()), **dict(base.named_buffers())}
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        fakes = {name: _empty_like(one, precision) for name, one in tensors.items()}
        if precision.autocast is not None:
            stack.enter_context(torch.autocast("cpu", precision.autocast))
        weights = [one.untyped_storage() for one in fakes.values()]
        base.train()
        yield weights, lambda **inputs: torch.func.functional_call(base, fakes, (), inputs)


def _empty_like(tensor: Tensor, precision: Precision) -> Tensor:
    dtype = precision.weights if precision.weights is not None and tensor.is_floating_point() else tensor.dtype
    made = torch.empty(tensor.shape, dtype=dtype, device="cpu")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
