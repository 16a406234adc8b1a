"""The same checkpoint, prompt and regions give the same ids, labels and logits as on LLaVA's own pins."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.tokenizer import load_tokenizer
from tests import stacks
from tests.samples import write_training_data
from tests.tiny import TINY_REGIONCLIP

REFERENCE: dict[str, Any] = json.loads((stacks.GOLDENS / "stacks.json").read_text())
REAL = stacks.real_tokenizer_model()
needs_real = pytest.mark.skipif(REAL is None, reason="PVIT_EXT_MISTRAL_COMMON names no unpacked mistral-common")


@pytest.mark.parametrize("variant", stacks.VARIANTS)
@pytest.mark.parametrize("model", [stacks.TOKENIZER, pytest.param(REAL, marks=needs_real, id="real")])
def test_token_ids(model: Path, variant: str, tmp_path: Path) -> None:
    found = stacks.token_ids(stacks.tokenizer_folder(tmp_path, model, *stacks.VARIANTS[variant]))
    wanted = REFERENCE["ids"][f"{model.name} {variant}"]
    wrong = [text for text, one, other in zip(stacks.prompts(), found, wanted, strict=True) if one != other]
    assert not wrong


@needs_real
def test_labels(tmp_path: Path) -> None:
    assert REAL is not None
    compat.layernorm_names()
    found = stacks.labels(stacks.tokenizer_folder(tmp_path, REAL, False))
    assert found == REFERENCE["labels"]
    assert all(any(label != -100 for label in row) for row in found)


def test_a_tokenizer_copies_and_pickles(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(stacks.tokenizer_folder(tmp_path, stacks.TOKENIZER, False)))
    wanted = tokenizer(" What  is").input_ids
    tokenizer.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["tokenizer_class"] == "LlamaTokenizer"
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other(" What  is").input_ids == wanted
        assert other([" What  is"]).input_ids == [wanted]


def test_logits_and_answers(tmp_path: Path) -> None:
    found, tensors = stacks.outputs(stacks.checkpoint(tmp_path / "checkpoint"))
    assert found == {key: REFERENCE[key] for key in found}
    for name, wanted in load_file(stacks.GOLDENS / "stacks.safetensors").items():
        torch.testing.assert_close(tensors[name], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.pinned
def test_both_stages_in_one_process(llava_checkpoint: Path, tmp_path: Path) -> None:
    data = write_training_data(tmp_path / "data")
    common = [
        *("--model_name_or_path", llava_checkpoint, "--version", "v1", "--data_path", data),
        *("--image_folder", data.parent, "--mm_vision_select_layer", "-2", "--mm_projector_type", "mlp2x_gelu"),
        *("--mm_use_im_patch_token", "False", "--image_aspect_ratio", "pad", "--num_train_epochs", "2"),
        *("--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--warmup_ratio", "0.03"),
        *("--evaluation_strategy", "no", "--save_strategy", "no", "--model_max_length", "512", "--report_to", "none"),
        *("--gradient_checkpointing", "True", "--logging_steps", "1", "--lazy_preprocess", "True"),
    ]

    def train(stage: str, *flags: object) -> Path:
        command = [sys.executable, "-m", "pvit_ext.train", "--stage", stage, *common, "--output_dir", tmp_path / stage]
        done = subprocess.run([str(word) for word in [*command, *flags]], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return tmp_path / stage

    options = ["--region_encoder_options", json.dumps(TINY_REGIONCLIP)]
    still = load_file(train("align", *options, "--learning_rate", "0") / "region_modules.safetensors")
    first = load_file(train("align", *options) / "region_modules.safetensors")
    moved = {key for key in still if not torch.equal(still[key], first[key])}
    assert moved == {f"region_projector.{name}" for name in ("features.weight", "features.bias", "delimiters.weight")}

    second = train("finetune", "--region_modules", tmp_path / "align", "--region_box_embedding", "True")
    before, after = (load_file(path / "model.safetensors") for path in (llava_checkpoint, second))
    language = {key for key in before if ".vision_tower." not in key}
    assert not language - after.keys()
    assert all(not torch.equal(before[key], after[key]) for key in language)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(second), device="cpu")
    query = Query(data.parent / "0.png", "What is in <region>?", [Region.box(5, 5, 40, 40)])
    assert pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=4)[0] is not None
    assert os.path.isfile(second / "tokenizer.model")
