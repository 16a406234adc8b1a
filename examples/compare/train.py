"""One row of the comparison: both stages through the recipes, the held-out questions, sizes and times."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pvit_ext
from examples.compare.measure import encode_times, parameters
from examples.compare.regions import KINDS, queries, write_records
from examples.compare.rows import Row
from examples.quickstart.__main__ import Settings
from examples.quickstart.arms import Flags, Launch, common_flags, launch
from examples.quickstart.phases import Phases
from examples.quickstart.towers import Scenes

BATCH = 16


@dataclass(frozen=True)
class Run:
    """What all rows share.

    Args:
        base: folder of :class:`~examples.compare.base.Base`.
        folder: rows go to ``folder/<name>``.
        settings: the budget.
        scenes: training scenes.
        held_out: scenes to ask about.
        fresh: train rows again that are there.
    """

    base: Path
    folder: Path
    settings: Settings
    scenes: Scenes
    held_out: Scenes
    fresh: bool = False


def run_row(row: Row, run: Run) -> dict[str, Any]:
    """Train what is not trained yet; return the row as plain JSON, see :mod:`examples.compare.report`."""
    folder = run.folder / row.name
    phases = Phases(folder, {**asdict(run.settings), **asdict(row), "batch": BATCH}, run.fresh)
    encoder = row.build(run.base)
    kinds = tuple(kind for kind in KINDS if kind in encoder.region_kinds)
    common = _flags(row, run, kinds)
    aligned = encoder.tokens_per_region > 0
    if aligned:
        phases.run(f"{row.name}: stage 1", partial(_align, row, run, common))
    phases.run(f"{row.name}: stage 2", partial(_finetune, row, run, common, aligned))
    answers = phases.run(f"{row.name}: questions", partial(_ask, folder, run, kinds))
    measured = phases.run(f"{row.name}: times", partial(_measure, folder, run))
    return {
        "answers": answers,
        "tokens": encoder.tokens_per_region,
        **measured,
        "stage1_rate": row.rate if aligned else None,
        "options": json.dumps(row.options),
        "seconds": round(sum(phases.seconds.values())),
    }


def _flags(row: Row, run: Run, kinds: tuple[str, ...]) -> Flags:
    data = run.base / "train" / f"{'_'.join(kinds)}.json"
    if not data.is_file():
        write_records(run.scenes[: run.settings.train_scenes], kinds, data, run.settings.seed)
    own: Flags = {"data_path": data, "per_device_train_batch_size": BATCH}
    return common_flags(run.base, "regions") | own | row.flags


def _align(row: Row, run: Run, common: Flags) -> None:
    own: Flags = {
        **_encoder_flags(row, run),
        "num_train_epochs": run.settings.stage1_epochs,
        "learning_rate": row.rate,
    }
    launch(Launch("stage1.sh", run.folder / row.name / "stage1", common | own))


def _finetune(row: Row, run: Run, common: Flags, aligned: bool) -> None:
    """An encoder that has nothing to align gets stage 1's epochs on top."""
    settings, folder = run.settings, run.folder / row.name
    own: Flags = (
        {"region_modules": folder / "stage1"}
        if aligned
        else {"region_modules": "", "region_box_embedding": False, **_encoder_flags(row, run)}
    )
    own["num_train_epochs"] = settings.stage2_epochs + (0 if aligned else settings.stage1_epochs)
    own["learning_rate"] = settings.stage2_rate
    launch(Launch("stage2.sh", folder / "stage2", common | own))


def _encoder_flags(row: Row, run: Run) -> Flags:
    return {
        "region_encoder": row.encoder,
        "region_weights": (run.base / "regionclip.pth").resolve() if row.has_tower else "",
        "region_encoder_options": json.dumps(row.options),
    }


def _ask(folder: Path, run: Run, kinds: tuple[str, ...]) -> dict[str, list[str]]:
    """Per kind of region the answers to all held-out questions, scene by scene."""
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder / "stage2"))
    asked = [query for kind in kinds for query in queries(run.held_out, kind, run.settings.seed)]
    answers = pvit_ext.ask(model, tokenizer, processor, asked, max_new_tokens=4, batch_size=64, progress=True)
    each = len(asked) // len(kinds)
    return {kind: answers[number * each : (number + 1) * each] for number, kind in enumerate(kinds)}


def _measure(folder: Path, run: Run) -> dict[str, Any]:
    _, model, processor, _ = pvit_ext.load_pretrained_model(str(folder / "stage2"))
    state = json.loads((folder / "stage2" / "trainer_state.json").read_text(encoding="utf-8"))
    speed = next(entry["train_samples_per_second"] for entry in state["log_history"] if "train_runtime" in entry)
    return {**parameters(model), **encode_times(model, processor, run.held_out), "train_samples_per_second": speed}
