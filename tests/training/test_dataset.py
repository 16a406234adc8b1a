"""Items of the dataset: LLaVA's own where no region is, and every record that cannot train is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from llava import conversation as llava_conversation
from llava.train import train as llava_train

from pvit_ext.data.records import RecordError
from pvit_ext.regions.region import RegionError
from tests.training.records import make_dataset, record


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_items_without_regions_equal_llavas(
    llava_checkpoint: Path, images: Path, tmp_path: Path, template, aspect: str
) -> None:
    records = [record(number, "Describe the image.", ()) for number in range(3)]
    records.append(record(7, "What is this?", (), image=False))
    path = images / f"plain_{aspect}.json"
    path.write_text(json.dumps(records))
    ours = make_dataset(llava_checkpoint, path, image_aspect_ratio=aspect)
    stock = make_dataset(llava_checkpoint, path, llava_train.LazySupervisedDataset, image_aspect_ratio=aspect)
    assert len(ours) == len(stock) == 4
    assert ours.modality_lengths == stock.modality_lengths
    for index in range(4):
        mine, theirs = ours[index], stock[index]
        assert all(torch.equal(mine[key], theirs[key]) for key in ("input_ids", "labels", "image"))


def test_a_loop_over_the_dataset_ends(llava_checkpoint: Path, data: Path, template) -> None:
    dataset = make_dataset(llava_checkpoint, data)
    count = len(dataset)
    assert sum(1 for _ in itertools.islice(iter(dataset), count + 1)) == count
    assert torch.equal(dataset[-1]["input_ids"], dataset[count - 1]["input_ids"])
    for index in (count, (2, count), -count - 1):
        with pytest.raises(IndexError, match=f"of {count}"):
            dataset[index]


def test_region_cut_off_by_the_maximum_length_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    path = images / "long.json"
    path.write_text(json.dumps([record(0), record(1, "Describe the image. " * 60 + "<region>")], indent=1))
    dataset = make_dataset(llava_checkpoint, path)
    dataset.tokenizer.model_max_length = 200
    assert len(dataset[0]["regions"]) == 1
    with pytest.raises(
        (RecordError, RegionError), match=r"long\.json.*--model_max_length 200|long\.json.*length is 200"
    ):
        dataset[1]


def test_masked_away_answer_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    path = images / "masked.json"
    path.write_text(json.dumps([record(0)]))
    dataset = make_dataset(llava_checkpoint, path)
    dataset.tokenizer.model_max_length = 40
    with pytest.raises(RecordError, match=r"masked\.json.*first answer ends at position"):
        dataset[0]


def test_template_that_drops_the_question_names_the_record(llava_checkpoint: Path, data: Path, template) -> None:
    llava_conversation.default_conversation = llava_conversation.conv_templates["plain"]
    with pytest.raises(RecordError, match=r"train\.json line 2.*1 regions.*keeps 0"):
        make_dataset(llava_checkpoint, data)[0]


def test_answer_behind_the_image_rows_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    """LLaVA expands the image after the collator cut the ids: 15 rows more push the answer over the edge."""
    path = images / "cut.json"
    path.write_text(json.dumps([record(0)]))
    dataset = make_dataset(llava_checkpoint, path)
    end = int((dataset[0]["labels"] >= 0).nonzero()[0]) + 16
    dataset.tokenizer.model_max_length = end
    dataset[0]
    dataset.tokenizer.model_max_length = end - 1
    with pytest.raises(
        RecordError, match=rf"cut\.json.*first answer ends at position {end}, --model_max_length is {end - 1}"
    ):
        dataset[0]


def test_unreadable_image_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:200])
    path = images / "unreadable.json"
    path.write_text(json.dumps([record(0) | {"image": "broken.png"}]))
    with pytest.raises(RegionError, match=r"unreadable\.json line 1.*broken\.png"):
        make_dataset(llava_checkpoint, path)[0]
