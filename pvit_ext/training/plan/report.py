"""A plan as plain text."""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.summary import counted
from pvit_ext.training.plan.plan import Plan
from pvit_ext.training.stages import format_counts

GIB = 2**30
NOT_COUNTED = (
    "the CUDA context, NCCL and the kernels (about 1 GiB), gaps between blocks of memory",
    "what a vision tower or region encoder that trains, mm_projector, the region projector and the vision aggregator "
    "keep for the backward pass; a frozen tower keeps nothing, but its own forward pass needs room for a moment",
    "evaluation, and gathering the weights when a checkpoint is written",
)


def describe(plan: Plan, rate: tuple[str, float] | None = None, tokens: int | None = None) -> str:
    """The plan as text.

    Args:
        plan: to tell.
        rate: ``samples_per_second`` or ``tokens_per_second`` and its value, all GPUs together.
        tokens: mean positions of a sample, for tokens per second.
    """
    lines = [format_counts(plan.parts), "", *_memory(plan), "", *_schedule(plan, rate, tokens), ""]
    return "\n".join([*lines, "not counted:", *(f"  {text}" for text in NOT_COUNTED)])


def fits(plan: Plan, gpu_memory: float) -> str | None:
    """What to say of a GPU's memory; None where the plan fits.

    Args:
        plan: to compare.
        gpu_memory: of one GPU, GiB.
    """
    if plan.peak <= gpu_memory * GIB:
        return None
    ways = ["fewer samples a GPU (--per_device_train_batch_size)"] if plan.batch > 1 else []
    ways += [] if plan.checkpointing else ["--gradient_checkpointing True"]
    ways += ["ZeRO-3 (--deepspeed recipes/zero3.json)"] if plan.sharding.stage < 3 and plan.sharding.gpus > 1 else []
    ways += [] if plan.sharding.offload_optimizer else ["offloading (recipes/zero3_offload.json)"]
    ways += ["more GPUs"] if plan.sharding.stage else []
    return f"does not fit: {_gib(plan.peak).strip()} of {gpu_memory:g} GiB; ways out: {', '.join(ways)}"


def hours(plan: Plan, rate: tuple[str, float] | None, tokens: int | None = None) -> float | None:
    """Hours of the training itself; None without a rate or a number of samples. Arguments as of :func:`describe`."""
    if plan.schedule is None or rate is None:
        return None
    return plan.schedule.seconds(_samples(plan, rate, tokens)) / 3600


def _samples(plan: Plan, rate: tuple[str, float], tokens: int | None) -> float:
    """A rate in samples per second."""
    name, value = rate
    return value if name == "samples_per_second" else value / (tokens or plan.length)


def _memory(plan: Plan) -> Iterator[str]:
    memory, sharding = plan.memory, plan.sharding
    kind = "without DeepSpeed" if sharding.dtype is None else f"DeepSpeed, ZeRO stage {sharding.stage}"
    moved = [
        name for name, on in (("optimizer", sharding.offload_optimizer), ("weights", sharding.offload_parameters)) if on
    ]
    kind += f", {' and '.join(moved)} offloaded" if moved else ""
    dtype = "each tensor in its own dtype" if sharding.dtype is None else str(sharding.dtype).removeprefix("torch.")
    yield f"{'per GPU, ' + str(sharding.gpus) + ' of them':<44}{'GiB':>10}  {kind}, {dtype}, {plan.optimizer}"
    again = "with gradient checkpointing" if plan.checkpointing else "without gradient checkpointing"
    rows = [
        ("weights", memory.weights, ""),
        ("gradients", memory.gradients, ""),
        ("optimizer states, and float32 weights", memory.optimizer, ""),
        ("buffers of gradients on their way", memory.buffers, "at most"),
        ("weights of other GPUs, gathered", memory.gathered, "at most"),
        ("activations", plan.activations.peak, f"{counted(plan.batch, 'sample')} of {plan.length} positions, {again}"),
        ("or, at the end of a step, float32 gradients", memory.step, "instead of activations"),
    ]
    for name, value, note in rows:
        if value:
            yield f"{name:<44}{_gib(value):>10}  {note}".rstrip()
    yield f"{'all together':<44}{_gib(plan.peak):>10}"
    if memory.host:
        yield f"{'in the memory of the machine, for each GPU':<44}{_gib(memory.host):>10}"
    if plan.estimate is not None:
        yield (
            f"{'DeepSpeed estimates for states':<44}{_gib(plan.estimate):>10}  as if every parameter trained, with "
            f"16 bits; here {_gib(memory.states).strip()}"
        )


def _schedule(plan: Plan, rate: tuple[str, float] | None, tokens: int | None) -> Iterator[str]:
    schedule = plan.schedule
    yield f"{counted(plan.global_batch, 'sample')} a step"
    if schedule is None:
        yield "steps: the data file is not here, give --samples N"
        return
    counts = [counted(*pair) for pair in ((schedule.samples, "sample"), (schedule.epochs, "epoch"))]
    yield f"{', '.join(counts)}: {counted(schedule.steps, 'step')}"
    if rate is None:
        yield "hours: give --samples-per-second X, --tokens-per-second X or --measured DIR"
        return
    name, value = rate
    of = "" if name == "samples_per_second" else f", {tokens or plan.length:,} of them a sample"
    yield f"{_duration(schedule.seconds(_samples(plan, rate, tokens)))} at {value:g} {name.replace('_', ' ')}{of}"


def _duration(seconds: float) -> str:
    """In the greatest unit of which there is one."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} hours"
    if seconds >= 60:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.1f} seconds"


def _gib(value: float) -> str:
    return f"{value / GIB:,.2f}" if value >= GIB / 100 else f"{value / GIB:.2g}"
