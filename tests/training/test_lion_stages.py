"""LION's stages: what each trains, what the table at the start says of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import pvit_ext
from pvit_ext.adapters.lion.tasks import UNSAID, Tasks
from pvit_ext.tokens.processor import RegionProcessor
from pvit_ext.training.llava.host import LlavaHost
from pvit_ext.training.stages import check_stage, freeze_for_stage, parameter_table, take_unsaid

ADAPTERS = {f"adapters.{number}" for number in range(3)}
PARTS = {"region_projector", "region_hint", "region_router", "region_aggregator"}


@pytest.fixture
def model(loaded: Any) -> Any:
    """A LLaVA with all parts of LION, and adapters for three tasks."""
    adapters = {"lion_adapters": 4, "lion_tasks": "region,image,grounding", "lion_routing": "question"}
    config = replace(loaded[1].region_config, **adapters, lion_tags="hint", lion_aggregator="added")
    return pvit_ext.attach(loaded[1], config)


def trained(model: Any) -> set[str]:
    """What trains, by the last two names above the tensors."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lion_adapters" in name or "region_" in name for name in names)
    return {name.split("lion_adapters.")[-1].split(".down")[0].split(".up")[0].split(".scale")[0] for name in names}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("lion_image", {"adapters.1", "region_hint"}),
        ("lion_mixed", {"gates.weight", *ADAPTERS, "region_hint", "region_router"}),
        ("lion_grounding", {"adapters.2", "region_projector", "region_hint", "region_aggregator"}),
        ("align", {"gates.weight", *ADAPTERS, *PARTS}),
    ],
)
def test_what_trains(model: Any, stage: str, expected: set[str]) -> None:
    freeze_for_stage(model, stage)
    found = {next((part for part in PARTS if part in name), name) for name in trained(model)}
    assert found == expected


def test_the_table_names_adapters_by_their_tasks(model: Any) -> None:
    freeze_for_stage(model, "lion_region")
    lines = parameter_table(model, LlavaHost().parts(model)).splitlines()[1:]
    assert [line.split("  ")[0] for line in lines if line.startswith("LION")] == [
        *(f"LION: {part}" for part in ("hint", "router", "aggregator")),
        *(f"LION adapters: {task}" for task in ("region", "image", "grounding")),
        "LION adapters: gates",
    ]
    counts = [[int(word.replace(",", "")) for word in line[28:].split()[:2]] for line in lines]
    assert sum(total for total, _ in counts) == sum(p.numel() for p in model.parameters())
    states = {line.split("  ")[0]: line.split("  ")[-1] for line in lines}
    assert states["language model"] == states["LION adapters: image"] == states["LION adapters: gates"] == "frozen"
    assert states["LION: router"] == "frozen"
    assert states["LION adapters: region"] == states["LION: hint"] == states["LION: aggregator"] == "trained"


def test_stages_that_the_model_does_not_have(loaded: Any, model: Any) -> None:
    with pytest.raises(ValueError, match="no task 'caption'; its stages of LION are lion_region, lion_image"):
        freeze_for_stage(model, "lion_caption")
    with pytest.raises(ValueError, match="known: align, finetune, lion_mixed, and lion_TASK"):
        check_stage("lion")


def test_no_task_has_the_name_of_the_mixed_stage() -> None:
    with pytest.raises(ValueError, match="lion_tasks is 'image,mixed': 'mixed' is the stage of all tasks"):
        Tasks.parse("image,mixed")


def test_a_record_that_says_no_task_is_of_the_one_that_a_stage_trains(loaded: Any) -> None:
    """A router does not train there, and would send the record to frozen adapters."""
    config = replace(loaded[1].region_config, lion_adapters=4, lion_routing="question")
    model = pvit_ext.attach(loaded[1], config)
    for stage, unsaid in (("lion_image", 1), ("lion_mixed", UNSAID), ("align", UNSAID)):
        dataset = SimpleNamespace(region_processor=RegionProcessor.of(model.region_module))
        take_unsaid(dataset, stage)
        asked = [dataset.region_processor.task(task, True, "record 0") for task in (None, "region")]
        assert asked == [unsaid, 0]
        assert dataset.region_processor.tasks.by_question, "under ZeRO every rank runs the router"


def test_without_adapters_there_is_nothing_to_train(loaded: Any) -> None:
    with pytest.raises(ValueError, match="the model has none: give --region_lion_adapters 64"):
        freeze_for_stage(loaded[1], "lion_image")
