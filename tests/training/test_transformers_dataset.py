"""Records as items and batches for models of transformers: what is learned, and what an answer sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Regex, pre_tokenizers

from pvit_ext.data.records import RecordError
from pvit_ext.hosts.transformers.dataset import IGNORE_INDEX, RegionCollator, RegionDataset
from tests.hosts.transformers.inputs import ALL, ALL_BUT_TWO_SLOW
from tests.hosts.transformers.inputs import with_regions as attached
from tests.training.test_transformers_host import as_turns, dataset_of, with_regions, write_records

ALL_BUT_PALIGEMMA_AND_LLAVA_SLOW = [
    name if name in ("llava", "paligemma") else pytest.param(name, marks=pytest.mark.slow) for name in ALL
]


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_labels_are_the_answers_and_their_ends(name: str, tmp_path: Path) -> None:
    _, processor = with_regions(name)
    dataset = dataset_of(write_records(tmp_path), processor)
    for number, expected in ((0, "a red dog </s>"), (1, "a green dog </s> no cat </s>"), (7, "left of the dog </s>")):
        item = dataset[number]
        learned = item["labels"][item["labels"] != IGNORE_INDEX]
        assert processor.tokenizer.decode(learned) == expected
        assert torch.equal(item["input_ids"][item["labels"] != IGNORE_INDEX], learned)


def test_labels_where_a_line_end_is_a_token(tmp_path: Path) -> None:
    """PaliGemma's processor writes one behind the text, and tokenizers with words alone do not show it."""
    _, processor = with_regions("paligemma")
    words = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+|\n"), behavior="removed", invert=True)
    processor.tokenizer.backend_tokenizer.pre_tokenizer = words
    item = dataset_of(write_records(tmp_path), processor)[1]
    learned = item["labels"][item["labels"] != IGNORE_INDEX]
    assert processor.tokenizer.decode(learned) == "a green dog </s> no cat </s>"


@pytest.mark.parametrize("name", [*ALL_BUT_PALIGEMMA_AND_LLAVA_SLOW])
def test_an_answer_sees_nothing_behind_it(name: str, tmp_path: Path) -> None:
    """In training too, where some prompts are seen both ways: else it would be copied and never learned."""
    model, processor = attached(name)
    dataset = dataset_of(write_records(tmp_path), processor)
    batch = RegionCollator(processor.tokenizer.pad_token_id)([dataset[1]])
    first, *_, last = (batch["labels"][0] != IGNORE_INDEX).nonzero().flatten().tolist()
    model.train()
    before = model(**batch).logits[0]
    batch["input_ids"][0, last] = processor.tokenizer.convert_tokens_to_ids("yellow")
    after = model(**batch).logits[0]
    assert torch.equal(after[:last], before[:last])
    assert not torch.equal(after[last], before[last])
    assert first < last


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_a_batch_of_items_is_the_processors_batch(name: str, tmp_path: Path) -> None:
    _, processor = with_regions(name)
    dataset = dataset_of(write_records(tmp_path), processor)
    samples = []
    for number in (0, 1, 2):
        record = dataset.records[number]
        images = [Image.open(file).convert("RGB") for file in record.image_files]
        ids = dataset[number]["input_ids"]
        samples.append((ids, images, record.resolve([image.size for image in images])))
    batch = RegionCollator(processor.tokenizer.pad_token_id)([dataset[number] for number in (0, 1, 2)])
    texts = [text_of(dataset, number) for number in (0, 1, 2)]
    expected = processor(
        images=[images for _, images, _ in samples], text=texts, regions=[regions for *_, regions in samples],
        return_tensors="pt", padding=True, padding_side="right",
    )  # fmt: skip
    assert set(batch) == {*expected, "labels"}
    for key, value in expected.items():
        if name == "paligemma" and key in ("labels", "token_type_ids"):  # those of a prompt without an answer
            continue
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(batch[key], value, rtol=0, atol=0, msg=key)
    for key in ("region_sizes", "region_views"):
        assert batch[key] == expected[key]
    assert [[r.image for r in row] for row in batch["regions"]] == [
        [r.image for r in row] for row in expected["regions"]
    ]


def text_of(dataset: RegionDataset, number: int) -> str:
    from pvit_ext.hosts.transformers.dialogue import render

    return render(dataset.processor, dataset.records[number].data["conversations"], "a record").text


def test_records_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    _, processor = with_regions("llava")
    path = write_records(tmp_path)
    with pytest.raises(RecordError, match=r"line 1: .*--model_max_length is 10"):
        dataset_of(path, processor, limit=10)[0]


LATE = [
    ("human", "where ?"),
    ("gpt", "left"),
    ("human", "<image> what is in <region> ?"),
    ("gpt", "a red dog"),
    ("human", "and in <image> and <region> or <image> ?"),
    ("gpt", "no cat"),
    ("human", "which <region> is larger ?"),
    ("gpt", "yes"),
]
LEARNED = "left </s> a red dog </s> no cat </s> yes </s>"


def late_record() -> dict[str, Any]:
    on_images = [[5, 5, 40, 40], {"box": [5, 5, 40, 40], "image": 1}, {"box": [9, 9, 40, 40], "image": 2}]
    return {"image": ["0.png", "1.png", "2.png"], "regions": on_images, "conversations": as_turns(LATE)}


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_images_of_later_turns(name: str, tmp_path: Path) -> None:
    """Their answers are learned all the same, though some processors write an image otherwise beside others."""
    _, processor = with_regions(name)
    path = write_records(tmp_path)
    path.write_text(json.dumps([late_record()]))
    item = dataset_of(path, processor)[0]
    learned = item["labels"] != IGNORE_INDEX
    assert processor.tokenizer.decode(item["labels"][learned]) == LEARNED
    assert torch.equal(item["input_ids"][learned], item["labels"][learned])


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_rows_behind_images_are_positions_that_nobody_learns(name: str, tmp_path: Path) -> None:
    depths = "0.7,0.4" if name == "glm4v" else "0.9,0.4"
    model, processor = attached(name, lion_aggregator="appended", lion_aggregator_depths=depths)
    path, row = write_records(tmp_path), processor.tokenizer.convert_tokens_to_ids("<image_row>")
    path.write_text(json.dumps([late_record(), *json.loads(path.read_text())[-2:]]))
    dataset = dataset_of(path, processor)
    items = [dataset[number] for number in range(3)]
    for item, expected in zip(items, (LEARNED, "a blue dog </s>", "left of the dog </s>"), strict=True):
        learned = item["labels"] != IGNORE_INDEX
        assert processor.tokenizer.decode(item["labels"][learned]) == expected
        assert torch.equal(item["input_ids"][learned], item["labels"][learned])
        assert int((item["input_ids"] == row).sum()) >= (12 if item is items[0] else 1)
    batch = RegionCollator(processor.tokenizer.pad_token_id)(items)
    assert model.train()(**batch).loss.isfinite()
    taken = items[0]["input_ids"].shape[1]
    assert dataset.positions_behind_image in (4, 16, 128)
    with pytest.raises(RecordError, match=rf"it takes {taken} positions, --model_max_length is {taken - 1}; raise it"):
        dataset_of(path, processor, limit=taken - 1)[0]
