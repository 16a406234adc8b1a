"""Folders whose processors ask for torchvision load without it: images and text work, videos are refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pvit_ext.hosts.transformers.images_only import load_processor
from tests.hosts.transformers.inputs import ALL, plain_batch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is there")
ASKING = """
import sys
import numpy as np
import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from PIL import Image

photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 97, 3), dtype=np.uint8))
config = RegionConfig("osprey", encoder_options={"layers": [-2], "position_grid": 8})
for folder in sys.argv[1:]:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(folder, region_config=config, device="cpu")
    query = Query(photo, "what is in <region> ?", [Region.box(10, 20, 40, 50)])
    assert len(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=2)) == 1
    print(type(processor).__name__)
"""


@pytest.mark.parametrize("name", ALL)
def test_a_loaded_processor_prepares_what_the_saved_one_did(name: str, tmp_path: Path) -> None:
    _, processor = ALL[name]()
    processor.save_pretrained(tmp_path)
    loaded = load_processor(str(tmp_path))
    expected, found = plain_batch(processor), plain_batch(loaded)
    assert type(loaded) is type(processor)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert not isinstance(value, torch.Tensor) or torch.equal(found[key], value), key
    loaded.save_pretrained(tmp_path / "again")
    one, other = (
        json.loads((folder / "processor_config.json").read_text()) for folder in (tmp_path, tmp_path / "again")
    )
    assert one == other


def test_videos_are_refused(tmp_path: Path) -> None:
    ALL["qwen2_5_vl"]()[1].save_pretrained(tmp_path)
    loaded = load_processor(str(tmp_path))
    with pytest.raises(ImportError, match="videos need torchvision"):
        loaded(text=["<|vision_start|><|video_pad|><|vision_end|>"], videos=[torch.zeros(2, 3, 56, 56)])


@pytest.mark.slow
def test_a_fresh_interpreter_loads_and_answers(tmp_path: Path) -> None:
    """Nothing that the tiny models of the tests change in transformers is there; and it is said once."""
    folders = []
    for name in ("pixtral", "qwen2_5_vl", "llava_onevision"):
        folders.append(str(tmp_path / name))
        for part in ALL[name]():
            part.save_pretrained(folders[-1])
    hub = Path(folders[1])  # the layout of Qwen's own checkpoints
    values = json.loads((hub / "processor_config.json").read_text())
    images = {**values["image_processor"], "processor_class": values["processor_class"]}
    (hub / "preprocessor_config.json").write_text(json.dumps(images))
    (hub / "processor_config.json").unlink()
    done = subprocess.run([sys.executable, "-c", ASKING, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["PixtralProcessor", "Qwen2_5_VLProcessor", "LlavaOnevisionProcessor"]
    assert done.stderr.count("torchvision is not installed: the processor prepares images by PIL") == 1
