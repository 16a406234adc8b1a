"""The patch files of ``patches/``, applied to a copy of the installed LLaVA: the same results as at run time.

``PVIT_EXT_LLAVA_TREE`` names another tree to run all this on, such as a clone of GitHub's main.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import llava
import pytest
import torch
from safetensors.torch import load_file

import pvit_ext
from patches.make_patch import ADDITIONS, MARK, make_patch
from tests.checkpoints import config, randomize, save
from tests.samples import write_training_data
from tests.tiny import TINY_REGIONCLIP

ROOT = Path(__file__).parents[3]
SOURCE = Path(os.environ.get("PVIT_EXT_LLAVA_TREE") or Path(llava.__file__).parents[1])
PATCH = ROOT / "patches" / "llava-1.2.2.post1.patch"

LOGITS = """
import sys, torch
from llava.model.builder import load_pretrained_model
from tests.checkpoints import logits
model = load_pretrained_model(sys.argv[1], None, "llava", device="cpu", device_map="cpu")[1].float()
torch.save(logits(model), sys.argv[2])
"""
TRAIN = "from llava.train.train_mem import train; train()"


def copy_source(folder: Path) -> Path:
    shutil.copytree(SOURCE / "llava", folder / "llava", ignore=shutil.ignore_patterns("__pycache__", "serve", "eval"))
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source, patched."""
    folder = copy_source(tmp_path_factory.mktemp("tree"))
    subprocess.run(["git", "apply", "--unidiff-zero", str(PATCH)], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source."""
    return copy_source(tmp_path_factory.mktemp("stock"))


def run(tree: Path, code: str, *arguments: Any) -> None:
    """Run in a process that imports the LLaVA of ``tree``."""
    code = f"import llava; assert llava.__path__ == [{str(tree / 'llava')!r}], llava.__path__\n{code}"
    path = os.pathsep.join([str(tree), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tree)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_patch_is_what_the_script_writes() -> None:
    assert PATCH.read_text() == make_patch(SOURCE)


def test_it_only_adds_and_copies_no_line_of_llava() -> None:
    for line in PATCH.read_text().splitlines():
        assert line.startswith(("--- a/", "+++ b/", "@@ -", "+")), line
    upstream = {line.strip() for name in ADDITIONS for line in (SOURCE / name).read_text().splitlines()}
    assert not upstream & {line[1:].strip() for line in PATCH.read_text().splitlines() if line[:2] not in ("++", "--")}


def test_a_moved_header_moves_the_patch_and_a_patched_tree_is_refused(tree: Path, tmp_path: Path) -> None:
    for name in ADDITIONS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# a fork's own line\n" + (SOURCE / name).read_text())
    (tmp_path / "moved.patch").write_text(make_patch(tmp_path))
    subprocess.run(["git", "apply", "--unidiff-zero", "moved.patch"], cwd=tmp_path, check=True)
    for name in ADDITIONS:
        assert (tmp_path / name).read_text() == "# a fork's own line\n" + (tree / name).read_text()
    with pytest.raises(ValueError, match=r"builder\.py is patched already"):
        make_patch(tree)
    assert MARK in (tree / "llava/model/builder.py").read_text()


@pytest.mark.slow
def test_llavas_own_loader_answers_as_under_the_run_time_patches(
    tree: Path, stock: Path, loaded: Any, tmp_path: Path
) -> None:
    model = pvit_ext.attach(loaded[1], config(embed_weights=True))
    checkpoint = save(randomize(model), tmp_path / "llava-region")
    run(tree, LOGITS, checkpoint, tmp_path / "patched.pt")
    run(stock, "import pvit_ext; pvit_ext.apply_pvit()" + LOGITS, checkpoint, tmp_path / "run_time.pt")
    patched, run_time = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("patched", "run_time"))
    assert torch.equal(patched, run_time)


LION = ["--stage", "lion_mixed", "--region_lion_adapters", "4", "--region_lion_tags", "hint"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [["--stage", "align"], LION], ids=["align", "lion"])
def test_llavas_own_training_script_trains_as_ours(
    tree: Path, stock: Path, llava_checkpoint: Path, tmp_path: Path, stage: list[str]
) -> None:
    data = write_training_data(tmp_path / "data")
    if stage is LION:
        records = [
            record | {"tags": ["dog", str(number)]} for number, record in enumerate(json.loads(data.read_text()))
        ]
        data.write_text(json.dumps(records))
    arguments = [
        "--model_name_or_path", llava_checkpoint, "--version", "v1", "--data_path", data, "--image_folder", data.parent,
        "--vision_tower", llava_checkpoint / "tower", "--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer",
        "-2", "--mm_use_im_patch_token", "False", "--image_aspect_ratio", "pad", "--max_steps", "3", "--report_to",
        "none", "--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--model_max_length", "512",
        "--save_strategy", "no", "--logging_steps", "1", "--allow_no_gradient", "True", *stage,
        "--region_encoder_options", json.dumps(TINY_REGIONCLIP),
    ]  # fmt: skip
    run(tree, TRAIN, *arguments, "--output_dir", tmp_path / "patched")
    run(stock, "from pvit_ext.train import main; main()", *arguments, "--output_dir", tmp_path / "ours")
    (file,) = (path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    patched, ours = (load_file(tmp_path / name / file) for name in ("patched", "ours"))
    assert ours.keys() == patched.keys()
    assert stage is not LION or all(any(part in key for key in ours) for part in ("region_hint", "lion_adapters"))
    assert all(torch.equal(ours[key], patched[key]) for key in ours)
