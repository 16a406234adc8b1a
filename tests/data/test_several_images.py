"""Records with several images reach the model with every region on its own image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pvit_ext.data.records import RecordError
from pvit_ext.hosts.llava.image_layout import ImageLayout
from pvit_ext.prompt import IMAGE_TOKEN_INDEX
from pvit_ext.tokens.processor import RegionProcessor
from tests.data.records import asked, record
from tests.training.records import make_dataset

from llava import conversation as llava_conversation  # isort: skip
from llava.train import train as llava_train  # isort: skip


@pytest.fixture
def dataset(loaded: Any, llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two images, one, none; and one image as a list."""
    from pvit_ext.hosts.llava.region_token import tokenizer_region_token

    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["v1"])
    monkeypatch.setattr(llava_train, "tokenizer_image_token", tokenizer_region_token)
    Image.effect_noise((60, 50), 90).convert("RGB").save(tmp_path / "b.png")
    Image.effect_noise((40, 20), 90).convert("RGB").save(tmp_path / "a.png")
    two = {"image": ["a.png", "b.png"], "regions": [{"box": [1, 2, 55, 45], "image": 1}, [1, 2, 30, 15]]}
    rows = [
        record(0, conversations=asked("<image> and\n<image>\nIs <region> as <region>?"), **two),
        record(1),
        record(2, image=None, regions=None, conversations=asked("What?")),
        record(3, image=["a.png"]),
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    made = make_dataset(llava_checkpoint, tmp_path / "train.json")
    made.region_processor = RegionProcessor.of(loaded[1].region_module)
    made.layout = ImageLayout.of(loaded[1])
    return made


def batch_of(dataset: Any, *numbers: int) -> dict[str, Any]:
    from pvit_ext.hosts.llava.dataset import RegionCollator

    return RegionCollator(tokenizer=dataset.tokenizer)([dataset[number] for number in numbers])


def test_a_batch_has_all_images_in_a_row(dataset: Any) -> None:
    batch = batch_of(dataset, 0, 1, 2, 3)
    assert len(batch["images"]) == len(batch["region_extra"]) == 5
    assert batch["image_sizes"][:3] == [(40, 20), (60, 50), (40, 20)]
    assert [[region.image for region in regions] for regions in batch["regions"]] == [[1, 0], [0], [], [0]]
    assert [int((ids == IMAGE_TOKEN_INDEX).sum()) for ids in batch["input_ids"]] == [2, 1, 0, 1]
    assert torch.equal(dataset[1]["input_ids"], dataset[3]["input_ids"])


def test_the_model_sees_each_region_on_its_image(dataset: Any, loaded: Any) -> None:
    _, model, _ = loaded
    model = model.float().eval()
    batch, seen = batch_of(dataset, 0, 1, 2), {}
    encoder = model.get_model().region_encoder
    encoder.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs[0], output=output))
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    assert seen["inputs"].image_index.tolist() == [1, 0, 2]
    together = seen["output"]
    model(**batch_of(dataset, 1))
    assert torch.allclose(together[2], seen["output"][0], atol=1e-4)


def test_a_template_that_drops_images_names_the_record(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["plain"])
    with pytest.raises(RecordError, match=r"train\.json line 1 .*--version plain"):
        dataset[0]


def test_the_longest_prompt_counts_every_image(dataset: Any) -> None:
    images = 2 * dataset.layout.positions((40, 20))
    dataset.tokenizer.model_max_length = images
    with pytest.raises(RecordError, match=r"line 1 .*ends at position"):
        dataset[0]
    dataset.tokenizer.model_max_length = images + 600
    assert len(dataset[0]["image"]) == 2
