"""What `pvit-ext swap` refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext.files import copy_file
from pvit_ext.tools.shards import open_checkpoint
from tests.checkpoints import config, load, relayout
from tests.tools.swapping import refused, swap


@pytest.fixture(params=[".safetensors", ".bin"])
def sharded(request: pytest.FixtureRequest, llava_checkpoint: Path, tmp_path: Path) -> Path:
    return relayout(llava_checkpoint, tmp_path / "source", request.param, 3)


def test_missing_shard(sharded: Path, tmp_path: Path) -> None:
    shard = open_checkpoint(sharded).shards[1].path
    shard.unlink()
    with refused(tmp_path, FileNotFoundError, f"index.json names .*{shard.name}.*fetch"):
        swap(sharded, {}, tmp_path / "out")


def test_index_names_a_tensor_that_the_shard_lacks(sharded: Path, tmp_path: Path) -> None:
    (index,) = sharded.glob("*.index.json")
    content = json.loads(index.read_text())
    content["weight_map"]["model.lost"] = next(iter(content["weight_map"].values()))
    index.write_text(json.dumps(content))
    with refused(tmp_path, ValueError, r"index.json names 1 tensors.*model\.lost in .*00001-of-00003.*fetch"):
        swap(sharded, {}, tmp_path / "out")


@pytest.mark.parametrize("keep", [0, 6, -1])
def test_truncated_shard(sharded: Path, tmp_path: Path, keep: int) -> None:
    shard = open_checkpoint(sharded).shards[-1].path
    shard.write_bytes(shard.read_bytes()[:keep])
    with refused(tmp_path, ValueError, f"{shard.name} is damaged.*fetch it again"):
        swap(sharded, {}, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors.index.json", b"{"), ("model.safetensors.index.json", b"{}"), ("pytorch_model.bin", None)],
)
def test_damaged_file_is_named(llava_checkpoint: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    source = relayout(llava_checkpoint, tmp_path / "source", ".bin" if content is None else ".safetensors", 1)
    if "index" in name:
        (source / "model.safetensors").unlink()
    torch.save([torch.ones(2)], source / name) if content is None else (source / name).write_bytes(content)
    with refused(tmp_path, ValueError, f"{name} (is damaged|has no weight_map|holds a list)"):
        swap(source, {}, tmp_path / "out")


def test_code_in_a_shard_is_not_run(llava_checkpoint: Path, tmp_path: Path) -> None:
    source = relayout(llava_checkpoint, tmp_path / "source", ".bin", 1)
    torch.save({"model.norm.weight": torch.nn.Linear(1, 1)}, source / "pytorch_model.bin")
    with refused(tmp_path, ValueError, r"pytorch_model.bin is damaged or no plain state dict"):
        swap(source, {}, tmp_path / "out")


PLAIN = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mm_vision_tower": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (PLAIN, r"'llama', architectures \['LlamaForCausalLM'\] is no LLaVA checkpoint"),
        ({"mm_vision_tower": None}, "without a vision tower, not a LLaVA checkpoint"),
    ],
)
def test_not_a_llava(llava_checkpoint: Path, tmp_path: Path, values: Any, message: str) -> None:
    source = relayout(llava_checkpoint, tmp_path / "source", ".safetensors", 1)
    content = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**content, **values}))
    with refused(tmp_path, ValueError, message):
        swap(source, {}, tmp_path / "out")


def test_what_is_no_whole_checkpoint_is_sent_to_merge(llava_checkpoint: Path, tmp_path: Path) -> None:
    model = load(llava_checkpoint, region_config=config())
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(llava_checkpoint))
    with refused(tmp_path, ValueError, r"modules: region modules on .*tiny. Swap takes .*`pvit-ext merge .*modules --"):
        swap(tmp_path / "modules", {}, tmp_path / "out")


def test_no_checkpoint(llava_checkpoint: Path, tmp_path: Path) -> None:
    with refused(tmp_path, FileNotFoundError, r"nowhere/config.json is missing"):
        swap(tmp_path / "nowhere", {}, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    shutil.copy(llava_checkpoint / "config.json", tmp_path / "empty")
    with refused(tmp_path, FileNotFoundError, r"empty has no model.safetensors or pytorch_model.bin"):
        swap(tmp_path / "empty", {}, tmp_path / "out")


def test_nothing_is_overwritten(llava_checkpoint: Path, tmp_path: Path) -> None:
    source = relayout(llava_checkpoint, tmp_path / "source", ".safetensors", 1)
    for taken in (source, source / "config.json"):
        with refused(source, FileExistsError, "is not an empty folder"):
            swap(source, {}, taken)
    (tmp_path / "empty").mkdir()
    assert load(swap(source, {}, tmp_path / "empty")).region_config is not None


def test_no_room(llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 10**6))
    with refused(tmp_path, OSError, r"out needs 1,.* bytes, 1,000,000 are free there: make room"):
        swap(llava_checkpoint, {}, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("limit", [100_000, 500_000], ids=["language model", "region modules"])
def test_write_fails_half_way(llava_checkpoint: Path, tmp_path: Path, suffix: str, limit: int) -> None:
    """A file-size limit of the process ends writes as a full disk does."""
    source = relayout(llava_checkpoint, tmp_path / "source", suffix, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with refused(tmp_path, OSError, "writing .*out failed, nothing is left of it"):
            swap(source, {}, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_copy_is_compared(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(3 << 20))

    def flip(_: int) -> None:
        with target.open("r+b") as file:
            file.write(bytes([source.read_bytes()[0] ^ 1]))

    with pytest.raises(OSError, match="is not what was read from"):
        copy_file(source, target, flip)
