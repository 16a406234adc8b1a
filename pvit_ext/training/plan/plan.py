"""All that ``pvit-ext plan`` tells of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pvit_ext.training.arguments import check_data
from pvit_ext.training.lion_data import check_lion
from pvit_ext.training.plan.activations import Activations, Precision, count_activations
from pvit_ext.training.plan.memory import Memory, Tensors, count_memory
from pvit_ext.training.plan.optimizers import name_of
from pvit_ext.training.plan.outline import RunOutline, adapters_that_count, outline_run
from pvit_ext.training.plan.sharding import Sharding
from pvit_ext.training.plan.steps import Schedule, check_batch, count_steps
from pvit_ext.training.stages import PartCount, count_parts


@dataclass(frozen=True)
class Question:
    """What is asked beside the flags of the run.

    Args:
        gpus: all together.
        samples: in an epoch, in place of those in the data file.
        length: positions of the longest sample of a batch, in place of ``--model_max_length``.
        global_batch: samples that a step should have.
    """

    gpus: int
    samples: int | None = None
    length: int | None = None
    global_batch: int | None = None


@dataclass(frozen=True)
class Plan:
    """The answer.

    Args:
        parts: parameters by module, as the table at the start of training has them.
        memory: of states, per GPU.
        activations: of a micro-batch, per GPU.
        sharding: over GPUs.
        optimizer: its name.
        schedule: None where there are neither the data nor a number of samples.
        estimate: DeepSpeed's own, bytes per GPU with all parameters trained; None without DeepSpeed or its ZeRO.
        batch: samples of a micro-batch on one GPU.
        length: positions of the longest of them.
        global_batch: samples of a step.
        checkpointing: blocks are computed again in the backward pass.
    """

    parts: tuple[PartCount, ...]
    memory: Memory
    activations: Activations
    sharding: Sharding
    optimizer: str
    schedule: Schedule | None
    estimate: int | None
    batch: int
    length: int
    global_batch: int
    checkpointing: bool

    @property
    def peak(self) -> float:
        """Bytes per GPU: states, and activations or the float32 copy of gradients, whichever is more."""
        return self.memory.states + max(self.activations.peak, self.memory.step)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, bytes and numbers of parameters."""
        return {
            "parts": [{**one._asdict(), "state": one.state} for one in self.parts],
            "memory_per_gpu": self.memory.to_json(),
            "activations_per_gpu": self.activations.to_json(),
            "peak_per_gpu": round(self.peak),
            "deepspeed_estimate_per_gpu": self.estimate,
            "sharding": {**asdict(self.sharding), "dtype": self.sharding.dtype and str(self.sharding.dtype)},
            "optimizer": self.optimizer,
            "batch": {"per_gpu": self.batch, "length": self.length, "global": self.global_batch},
            "gradient_checkpointing": self.checkpointing,
            "schedule": self.schedule and self.schedule.to_json(),
        }


def make_plan(words: Sequence[str], question: Question) -> Plan:
    """Plan a run.

    Args:
        words: flags as ``python -m pvit_ext.train`` takes them.
        question: what is asked beside them.

    Raises:
        ValueError: for flags that training would refuse, and for what cannot be counted.
    """
    run = outline_run(words)
    training = run.args.training
    width = run.model.get_input_embeddings().weight.shape[1]
    sharding = Sharding.of(run.deepspeed, training, width, question.gpus)
    optimizer = name_of(training, run.deepspeed)
    batch = check_batch(training, run.deepspeed, question.gpus, question.global_batch)
    samples, length = _samples(run, question), _length(question, training)
    checkpointing = bool(training.gradient_checkpointing)
    precision, micro = Precision.of(training, sharding.dtype), training.per_device_train_batch_size
    with adapters_that_count(training):
        activations = count_activations(run.model, micro, length, checkpointing, precision)
    return Plan(
        parts=tuple(count_parts(run.model, run.host.parts(run.model))),
        memory=count_memory(Tensors.of(run.model, training), sharding, optimizer),
        activations=activations,
        sharding=sharding,
        optimizer=optimizer,
        schedule=None if samples is None else count_steps(training, samples, question.gpus),
        estimate=_deepspeed_estimate(run.model, sharding),
        batch=micro,
        length=length,
        global_batch=batch,
        checkpointing=checkpointing,
    )


def _length(question: Question, training: Any) -> int:
    """Positions of the longest sample of a batch."""
    limit = int(training.model_max_length)
    if question.length is not None and question.length > limit:
        raise ValueError(
            f"--length {question.length} is above --model_max_length {limit}, the most that training lets a sample "
            "have: change one of them"
        )
    return question.length or limit


def _samples(run: RunOutline, question: Question) -> int | None:
    data = run.args.data
    if question.samples is not None:
        return question.samples
    if data.data_path is None or not Path(data.data_path).exists():
        return None
    check_data(data, run.args.training)
    check_lion(run.model.region_module.config, data, run.args.training)
    return len(data.read[0])


def _deepspeed_estimate(model: Any, sharding: Sharding) -> int | None:
    """Bytes per GPU by DeepSpeed's function for the stage, which takes every parameter for a trained one."""
    if sharding.stage not in (2, 3) or importlib.util.find_spec("deepspeed") is None:
        return None
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    total = sum(one.numel() for one in model.parameters())
    offload = sharding.offload_optimizer
    if sharding.stage == 2:
        return int(estimate_zero2_model_states_mem_needs(total, sharding.gpus, 1, offload)[1])
    layers = [sum(one.numel() for one in module.parameters(recurse=False)) for module in model.modules()]
    stage3 = estimate_zero3_model_states_mem_needs(
        total, max(layers), sharding.gpus, 1, offload, offload and sharding.offload_parameters
    )
    return int(stage3[1])
