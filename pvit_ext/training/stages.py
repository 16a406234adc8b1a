"""What each stage trains, and the table that says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from pvit_ext.adapters.lion.feed_forward import mixtures_in
from pvit_ext.adapters.lion.parts import ADAPTERS, ROUTER
from pvit_ext.adapters.lion.tasks import IMAGE, MIXED, Tasks
from pvit_ext.adapters.quantization import count
from pvit_ext.adapters.tensors import adapter_parameters

_OF_LION = "lion_"
ALIGN, FINETUNE, LION_MIXED = "align", "finetune", f"{_OF_LION}{MIXED}"
_ALWAYS = ("region_hint",)
"""LION's parts that train in each of its stages."""
NO_LEARNING = "the adapter would not learn"


def check_stage(stage: str) -> None:
    """Raise ValueError for a stage that no model has."""
    if stage not in (ALIGN, FINETUNE) and not stage.startswith(_OF_LION):
        raise ValueError(f"--stage {stage!r}; known: {ALIGN}, {FINETUNE}, {LION_MIXED}, and lion_TASK, as lion_image")


def is_of_lion(stage: str) -> bool:
    """Whether a stage trains adapters by task, and nothing of the model itself."""
    return stage.startswith(_OF_LION)


def trains_parts_alone(stage: str) -> bool:
    """Whether a stage leaves the model itself as it is, so that its result is a folder of region modules."""
    return stage != FINETUNE


def freeze_for_stage(model: Any, stage: str) -> None:
    """Set ``requires_grad`` by module, never by name.

    Args:
        model: with a ``region_module``, possibly inside peft's wrapper.
        stage: ``align`` trains nothing but the region modules; ``finetune`` adds them to what the host's flags train;
            those of LION train parts of them, see :func:`_freeze_for_lion`.

    Raises:
        ValueError: when a stage has nothing to train, asks for a task that the model does not have, or comes with an
            adapter of which all is frozen.
    """
    if is_of_lion(stage):
        _freeze_for_lion(model, stage)
        return
    if stage == ALIGN:
        model.requires_grad_(False)
    encoder = model.region_module.region_encoder
    model.region_module.region_projector.requires_grad_(True)
    encoder.requires_grad_(not encoder.frozen)
    for part in model.region_module.lion.values():
        part.requires_grad_(True)
    if stage == ALIGN and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"--stage align trains region modules, {encoder.name!r} has none: use finetune")
    if (adapter := adapter_parameters(model)) and not any(parameter.requires_grad for parameter in adapter):
        raise ValueError(
            f"--lora_enable True: all of the adapter is frozen by the run's other flags, {NO_LEARNING}: drop the flag, "
            "or those that freeze it"
        )


def _freeze_for_lion(model: Any, stage: str) -> None:
    """Train one task's adapters, or all with their gates (``lion_mixed``), and nothing of the model itself.

    The image-level task (``lion_image``) leaves alone what regions and cells go through; every other task trains it:
    encoder, if it trains at all, region projector, and vision aggregator.
    """
    module, task = model.region_module, task_of_stage(stage)
    mixed = stage == LION_MIXED
    tasks = tasks_for_stage(Tasks.of(module.config), stage)
    model.requires_grad_(False)
    for mixture in mixtures_in(module):
        mixture.gates.requires_grad_(mixed)
        for name, adapter in zip(tasks.names, mixture.adapters, strict=True):
            adapter.requires_grad_(mixed or name == task)
    closer = looks_closer(stage)
    module.region_projector.requires_grad_(closer)
    module.region_encoder.requires_grad_(closer and not module.region_encoder.frozen)
    for name, part in module.lion.items():
        if name != ADAPTERS:
            part.requires_grad_(name in _ALWAYS or (mixed if name == ROUTER else closer))


def task_of_stage(stage: str) -> str | None:
    """The one task whose adapters a stage of LION trains; None for any other stage."""
    return stage.removeprefix(_OF_LION) if is_of_lion(stage) and stage != LION_MIXED else None


def looks_closer(stage: str) -> bool:
    """Whether a stage of LION trains what regions and cells go through: that of one task, but not of whole images."""
    return task_of_stage(stage) not in (None, IMAGE)


def tasks_for_stage(tasks: Tasks | None, stage: str) -> Tasks:
    """The tasks of a model as a stage of LION takes its records.

    Those that say no task are of the one that the stage trains, if the model's router would choose: it does not train
    there, and would send them to frozen adapters.

    Args:
        tasks: of the model.
        stage: of LION.

    Raises:
        ValueError: for a model without adapters by task, or without the task.
    """
    if tasks is None:
        raise ValueError(f"--stage {stage} trains adapters by task, the model has none: give --region_lion_adapters 64")
    task = task_of_stage(stage)
    if task is not None and task not in tasks.names:
        known = ", ".join([*(f"{_OF_LION}{name}" for name in tasks.names), LION_MIXED])
        raise ValueError(f"--stage {stage}: the model has no task {task!r}; its stages of LION are {known}")
    return replace(tasks, alone=task)


def take_unsaid(dataset: Any, stage: str) -> None:
    """Let a dataset take its records as :func:`tasks_for_stage` says.

    Args:
        dataset: :class:`~pvit_ext.data.record_dataset.RecordDataset` that knows its model.
        stage: that :func:`freeze_for_stage` accepted.
    """
    samples = dataset.region_processor
    if is_of_lion(stage):
        dataset.region_processor = replace(samples, tasks=tasks_for_stage(samples.tasks, stage))


def parameter_table(model: Any, host_parts: dict[str, nn.Module]) -> str:
    """One line per module: parameters, how many of them train, and whether they train fully or through LoRA.

    Args:
        model: with a ``region_module``, possibly inside peft's wrapper.
        host_parts: modules beside the language model and the region module, by name.
    """
    return format_counts(count_parts(model, host_parts))


class PartCount(NamedTuple):
    """Parameters of one part of a model, and how many of them train."""

    name: str
    parameters: int
    trained: int

    @property
    def state(self) -> str:
        """In a word or two."""
        return "frozen" if not self.trained else "trained" if self.trained == self.parameters else "partly trained"


def count_parts(model: Any, host_parts: dict[str, nn.Module]) -> list[PartCount]:
    """The parameters of each part; see :func:`parameter_table`."""
    found = []
    for name, parameters in _parts(model, host_parts):
        trained = sum(count(p) for p in parameters if p.requires_grad)
        found.append(PartCount(name, sum(count(p) for p in parameters), trained))
    return found


def format_counts(parts: Sequence[PartCount]) -> str:
    """The table of :func:`parameter_table`."""
    lines = [f"{'module':<28}{'parameters':>16}{'trained':>16}  state"]
    lines += [f"{one.name:<28}{one.parameters:>16,}{one.trained:>16,}  {one.state}" for one in parts]
    return "\n".join(lines)


def _parts(model: Any, host_parts: dict[str, nn.Module]) -> Iterator[tuple[str, list[nn.Parameter]]]:
    adapter = adapter_parameters(model)
    module = model.region_module
    projector = {f"region projector: {name}": part for name, part in module.region_projector.named_children()}
    named = {**host_parts, "region encoder": module.region_encoder, **projector, **_of_lion(module)}
    parts = {name: list(module.parameters()) for name, module in named.items()}
    taken = {id(p) for parameters in [*parts.values(), adapter] for p in parameters}
    yield "language model", [p for p in model.parameters() if id(p) not in taken]
    yield from parts.items()
    if adapter:
        yield "LoRA", adapter


def _of_lion(module: Any) -> dict[str, nn.Module]:
    """LION's parts by the names of the table: adapters of one task together, over all blocks."""
    named = {f"LION: {name.removeprefix('region_')}": part for name, part in module.lion.items() if name != ADAPTERS}
    if (tasks := Tasks.of(module.config)) is None:
        return named
    mixtures = mixtures_in(module)
    for number, task in enumerate(tasks.names):
        named[f"LION adapters: {task}"] = nn.ModuleList(mixture.adapters[number] for mixture in mixtures)
    return {**named, "LION adapters: gates": nn.ModuleList(mixture.gates for mixture in mixtures)}
