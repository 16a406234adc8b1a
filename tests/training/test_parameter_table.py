"""The table of a run's start."""

from __future__ import annotations

from pvit_ext.training.llava.host import LlavaHost
from pvit_ext.training.stages import freeze_for_stage, parameter_table


def test_table_counts_every_parameter_once(loaded) -> None:
    _, model, _ = loaded
    freeze_for_stage(model, "align")
    lines = parameter_table(model, LlavaHost().parts(model)).splitlines()[1:]
    counts = [[int(word.replace(",", "")) for word in line[28:].split()[:2]] for line in lines]
    assert sum(total for total, _ in counts) == sum(p.numel() for p in model.parameters())
    assert sum(trained for _, trained in counts) == sum(
        p.numel() for p in model.get_model().region_projector.parameters()
    )
    assert [line.split("  ")[-1] for line in lines] == ["frozen"] * 4 + ["trained"] * 2
