"""``swift sft`` with the plug-in trains region modules, and writes what loads.

ms-swift 4.6 pins an older transformers than these tests run with: give the ``swift`` of an environment of its own, with
``pip install ms-swift`` beside this project, in PVIT_EXT_SWIFT.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

import pvit_ext
from tests.hosts.transformers.inputs import make_image, with_regions

ROOT = Path(__file__).parents[2]
ANSWERS = ("a red dog", "a green dog", "a blue cat", "a yellow cat")


def write_rows(folder: Path) -> Path:
    rows = []
    for number in range(8):
        path = folder / f"{number}.png"
        make_image(90, 60, number).save(path)
        turns = [("user", "<image>what is in <region> ?"), ("assistant", ANSWERS[number % 4])]
        messages = [{"role": role, "content": text} for role, text in turns]
        rows.append({"messages": messages, "images": [str(path)], "objects": {"bbox": [[5, 5, 40, 40]]}})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "data.jsonl"


@pytest.mark.slow
@pytest.mark.skipif("PVIT_EXT_SWIFT" not in os.environ, reason="PVIT_EXT_SWIFT names no swift of ms-swift")
def test_swift_trains_a_model_with_regions(tmp_path: Path) -> None:
    model, processor = with_regions("llava", delimiters=True)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    flags = {
        "external_plugins": ROOT / "examples" / "ms_swift_plugin.py", "model": tmp_path / "model",
        "model_type": "pvit_ext", "template": "pvit_ext", "dataset": write_rows(tmp_path), "tuner_type": "full",
        "output_dir": tmp_path / "out", "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "torch_dtype": "float32", "report_to": "none", "remove_unused_columns": "false",
        "split_dataset_ratio": 0, "dataset_num_proc": 1,
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    own = {"PYTHONPATH": str(ROOT), "USE_HF": "1", "MODELSCOPE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [os.environ["PVIT_EXT_SWIFT"], "sft", *words], env={**os.environ, **own}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "out").glob("*/checkpoint-6")
    log = [json.loads(line) for line in (folder.parent / "logging.jsonl").read_text().splitlines()]
    losses = [float(entry["loss"]) for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]
    _, trained, _, _ = pvit_ext.load_pretrained_model(str(folder), device="cpu")
    before = model.region_module.tensors()
    for name, value in trained.region_module.tensors().items():
        assert not torch.equal(value, before[name]), name
