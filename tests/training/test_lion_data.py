"""What flags, config.json and the records tell of LION, checked before a model loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig, regions_to_json
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.tokens.serialization import write_region_files
from pvit_ext.training.arguments import ModelFlags
from pvit_ext.training.lion_data import check_lion, config_by_flags
from tests.training.records import record
from tests.training.test_tasks import TASKS, whole, write

WITH_ADAPTERS = RegionConfig(lion_adapters=4)


def check(
    folder: Path, records: list[dict[str, Any]], stage: str, config: RegionConfig = WITH_ADAPTERS, **more: Any
) -> None:
    path = write(folder, records)
    read = load_records(path, folder), BadRecords(more.pop("bad", 0))
    training = SimpleNamespace(stage=stage, allow_no_gradient=more.get("allow", False))
    check_lion(config, SimpleNamespace(read=read, tag_noise=more.get("noise", TagNoise())), training)


def test_what_flags_and_the_file_tell_of_lion_is_told_before_a_model_loads(data: Path) -> None:
    records = [whole(), record(0)]
    with pytest.raises(ValueError, match="--stage lion_image trains adapters by task, the model has none: give"):
        check(data.parent, records, "lion_image", RegionConfig())
    with pytest.raises(ValueError, match="change tags; the model reads none: --region_lion_tags hint"):
        check(data.parent, records, "finetune", RegionConfig(), noise=TagNoise(drop=0.5))
    with pytest.raises(ValueError, match=r"reads tags, and no record has any \(2 records.*`pvit-ext data tags` writes"):
        check(data.parent, records, "finetune", RegionConfig(lion_tags="hint"))
    check(data.parent, records, "finetune", RegionConfig())


def test_a_stage_without_a_sample_of_its_task_is_refused_before_a_model_loads(data: Path) -> None:
    folder, images, regions = data.parent, [whole()] * 12, [record(0)] * 3
    with pytest.raises(ValueError, match=r"--stage lion_region: no record is of the task region \(12 are image\)"):
        check(folder, images, "lion_region")
    with pytest.raises(ValueError, match=r"--stage lion_mixed: no record is of the task image \(3 are region\)"):
        check(folder, regions, "lion_mixed")
    with pytest.raises(ValueError, match="no task 'box'; its stages of LION are lion_region, lion_image, lion_mixed"):
        check(folder, regions, "lion_box")
    with pytest.raises(RecordError, match="the task 'box' is none"):
        check(folder, [*images, whole(lion_task="box")], "align")
    with pytest.raises(ValueError, match=r"no record is of the task image \(all are bad\)"):
        check(folder, [whole(lion_task="box")], "lion_image", bad=1)
    check(folder, images, "lion_region", allow=True)
    by_question = replace(WITH_ADAPTERS, lion_routing="question")
    check(folder, images, "lion_region", by_question)  # of the task that the stage trains
    check(folder, images, "lion_mixed", by_question)  # the router may send them anywhere
    for stage in ("lion_image", "align", "finetune"):
        check(folder, images, stage)


def test_the_rest_of_a_stage_is_offered_where_it_learns(data: Path) -> None:
    images, regions = [whole(tags=["cat"])] * 3, [record(0)] * 3
    image = record(0) | {"lion_task": "image"}  # its regions go through the projector
    for records, stage, parts, offered in (
        (regions, "lion_image", {"lion_aggregator": "added"}, False),  # which trains adapters of its task alone
        (images, "lion_region", {}, False),
        (images, "lion_region", {"lion_aggregator": "added"}, True),
        (images, "lion_region", {"lion_tags": "hint"}, True),
        ([image], "lion_region", {}, True),
        (images, "lion_mixed", {}, True),
    ):
        with pytest.raises(ValueError, match="no record is of the task") as found:
            check(data.parent, records, stage, replace(WITH_ADAPTERS, **parts))
        offer = "task, or train the rest of the stage alone with --allow_no_gradient True"
        assert (offer in str(found.value)) == offered, (stage, parts)


def test_tasks_are_known_by_the_checkpoints_config_or_by_flags(tmp_path: Path) -> None:
    flags = ModelFlags(model_name_or_path=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert Tasks.of(config_by_flags(flags)) is None
    flags.region_lion_adapters = 4
    assert Tasks.of(config_by_flags(flags)) == TASKS
    flags.region_lion_adapters, flags.region_lion_tasks = None, "a,b"
    with pytest.raises(ValueError, match="lion_tasks 'a,b' cannot apply without adapters"):
        config_by_flags(flags)


def test_tasks_of_the_base_stay_under_a_folder_without_adapters(tmp_path: Path) -> None:
    stored = regions_to_json(WITH_ADAPTERS, EncoderFacts(8, 1))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", CONFIG_KEY: stored}))
    modules = tmp_path / "modules"
    write_region_files(modules, {}, regions_to_json(RegionConfig(), EncoderFacts(8, 1)), None, False)
    flags = ModelFlags(model_name_or_path=str(tmp_path), region_modules=str(modules))
    assert Tasks.of(config_by_flags(flags)) == TASKS
