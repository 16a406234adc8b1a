"""Batches of like length: what a region takes is counted, no image is read for it, and the order is exact."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers.trainer_pt_utils import LengthGroupedSampler

from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.data.records import load_records
from pvit_ext.tokens.processor import RegionProcessor
from pvit_ext.training.sampler import EpochSampler, ModalityGroupedSampler, check_sampling, groups_by_length
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training import runs
from tests.training.records import make_dataset

REGIONS = [1, 1, 1, 1, 2, 1, 0, 0]


class Wide(RecordDataset):
    positions_per_region = 5


def test_a_region_counts_for_its_positions(data: Path) -> None:
    records = load_records(data)
    assert records.region_counts.tolist() == REGIONS
    plain, wide = RecordDataset(records, BadRecords(0)), Wide(records, BadRecords(0))
    assert plain.modality_lengths == records.words.tolist()
    assert wide.modality_lengths == [
        words + 4 * regions for words, regions in zip(plain.modality_lengths, REGIONS, strict=True)
    ]
    assert wide.lengths == [abs(words) + 128 * (words > 0) for words in wide.modality_lengths]


def test_llavas_dataset_knows_what_a_region_takes(llava_checkpoint: Path, data: Path) -> None:
    ours = make_dataset(llava_checkpoint, data)
    before = ours.lengths
    ours.region_processor = RegionProcessor(None, 4)
    assert [one - other for one, other in zip(ours.lengths, before, strict=True)] == [3 * count for count in REGIONS]


def test_rows_behind_an_image_count(llava_checkpoint: Path, data: Path) -> None:
    ours = make_dataset(llava_checkpoint, data)
    before, words = ours.lengths, ours.records.words
    ours.layout = dataclasses.replace(ours.layout, behind=16)
    assert ours.layout.positions((40, 30)) == 16 + 16
    assert [one - other for one, other in zip(ours.lengths, before, strict=True)] == (16 * (words > 0)).tolist()


@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="the host needs a newer transformers")
def test_transformers_dataset_knows_what_a_region_takes(tmp_path: Path) -> None:
    from tests.training import test_transformers_host as host

    model, processor = host.with_regions("llava")
    theirs = host.dataset_of(host.write_records(tmp_path), processor)
    taken = model.region_module.positions_per_region
    assert taken > 2
    assert theirs.positions_per_region == taken
    one, three = theirs.lengths[:2]
    assert three - one == 8 + 2 * (taken - 1)  # eight more words, two more regions


def test_a_bad_records_place_has_the_length_of_what_is_read_there(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    records = json.loads(data.read_text())
    path.write_text("\n".join(json.dumps(one) for one in [records[7], {"id": "bad"}, records[4]]))
    found = load_records(path, None, BadRecords(1))
    assert found.region_counts.tolist() == [0, 2, 2]


@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_modality_groups_are_a_permutation_of_alike_batches(batch: int) -> None:
    lengths = [(1 + (7 * number) % 50) * (-1 if number % 3 == 0 else 1) for number in range(90)]
    epoch = 0
    sampler = EpochSampler(ModalityGroupedSampler(batch, lengths), 5, lambda: epoch)
    first = [index for _, index in sampler]
    torch.rand(7)
    assert first == [index for _, index in sampler]
    assert sorted(first) == list(range(90))
    assert len(sampler) == 90
    whole = 60 // batch + 30 // batch
    kinds = [{lengths[index] > 0 for index in first[start : start + batch]} for start in range(0, whole * batch, batch)]
    assert all(len(kind) == 1 for kind in kinds)
    epoch = 1
    if batch < 100:
        assert first != [index for _, index in sampler]


def test_batches_are_of_like_length() -> None:
    lengths = [1 + (37 * number) % 400 for number in range(400)]
    order = list(ModalityGroupedSampler(8, lengths))
    spreads = [
        max(part) - min(part) for part in ([lengths[place] for place in order[s : s + 8]] for s in range(0, 400, 8))
    ]
    assert sum(spreads) / len(spreads) < 40
    assert list(ModalityGroupedSampler(4, [])) == []


BY_LENGTH: dict[str, Any] = (
    {"train_sampling_strategy": "group_by_length"}
    if any(one.name == "train_sampling_strategy" for one in dataclasses.fields(transformers.TrainingArguments))
    else {"group_by_length": True}
)


def test_flags() -> None:
    assert groups_by_length(SimpleNamespace(**BY_LENGTH))
    assert not groups_by_length(SimpleNamespace(train_sampling_strategy="random", group_by_length=False))
    check_sampling(SimpleNamespace(train_sampling_strategy="sequential"))
    with pytest.raises(ValueError, match="batch_rebalance is not resumed exactly; known here: random, sequential"):
        check_sampling(SimpleNamespace(train_sampling_strategy="batch_rebalance"))


@pytest.mark.parametrize(
    ("changed", "kind"), [(BY_LENGTH, LengthGroupedSampler), ({"group_by_modality_length": True}, None)]
)
def test_llavas_trainer_sees_the_lengths(
    llava_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    kind: Any,
) -> None:
    trainer = runs.run(monkeypatch, runs.flags(llava_checkpoint, data, tmp_path, stage="align", **changed))
    order = trainer._get_train_sampler().order
    assert order.lengths == (trainer.train_dataset.lengths if kind else trainer.train_dataset.modality_lengths)
    assert kind is None or isinstance(order, kind)


@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="the host needs a newer transformers")
@pytest.mark.parametrize("changed", [BY_LENGTH, {"group_by_modality_length": True}])
def test_transformers_trainer_sees_the_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    from tests.training import test_transformers_host as host

    checkpoint, data = host.save_stock("llava", tmp_path / "llava"), host.write_records(tmp_path / "data")
    trainer = host.run(monkeypatch, host.flags(checkpoint, data, tmp_path / "out", **changed, max_steps=1))
    order = trainer._get_train_sampler().order
    modality = "group_by_modality_length" in changed
    assert isinstance(order, ModalityGroupedSampler if modality else LengthGroupedSampler)
    assert list(order.lengths) == (
        trainer.train_dataset.modality_lengths if modality else trainer.train_dataset.lengths
    )
