"""`pvit-ext merge`: what it writes loads as the folder does with its base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import cli
from pvit_ext.hosts.llava.host import LlavaHost
from pvit_ext.tools.merge import merge_checkpoint
from tests.checkpoints import config, load, logits, randomize
from tests.hosts.llava.test_checkpoint_kinds import plain_logits, stock_lora
from tests.hosts.test_switching import change_tensors
from tests.tiny import build_llava

TEXT = "Which is larger,  the first <s> or the second?"


@pytest.fixture
def modules(llava_checkpoint: Path, tmp_path: Path) -> Path:
    """As stage 1 writes it."""
    torch.manual_seed(1)
    model = randomize(load(llava_checkpoint, region_config=config()))
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(llava_checkpoint))
    return tmp_path / "modules"


def ids(path: Path | str) -> list[int]:
    found: list[int] = pvit_ext.load_pretrained_model(str(path), device="cpu")[0](TEXT).input_ids
    return found


def test_stock_lora(llava_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, expected = stock_lora(llava_checkpoint, tmp_path / "lora")
    out = tmp_path / "out"
    assert cli.main(["merge", str(folder), "--out", str(out)]) == 0
    written = capsys.readouterr()
    assert written.out == f"{out}: a whole checkpoint, merged from {folder}\n"
    assert str(out) not in written.err
    model = load(out)
    assert torch.equal(plain_logits(model), plain_logits(expected))
    assert model.config.image_aspect_ratio == "anyres"
    assert ids(out) == ids(llava_checkpoint)
    assert (out / "tokenizer.model").read_bytes() == (llava_checkpoint / "tokenizer.model").read_bytes()


def test_region_modules(modules: Path, tmp_path: Path) -> None:
    merge_checkpoint(str(modules), str(tmp_path / "out"))
    assert torch.equal(logits(load(tmp_path / "out")), logits(load(modules)))


def test_another_base_than_the_recorded_one_is_said(
    modules: Path, llava_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights of the same shapes fit, whatever they are."""
    other = shutil.copytree(llava_checkpoint, tmp_path / "other")
    said = f"region modules on {other}, trained on {llava_checkpoint}: right only if both hold the same weights"
    merge_checkpoint(str(modules), str(tmp_path / "same"), base=str(llava_checkpoint))
    pvit_ext.load_pretrained_model(str(modules), str(llava_checkpoint), device="cpu")
    assert "trained on" not in caplog.text
    merge_checkpoint(str(modules), str(tmp_path / "out"), base=str(other))
    assert said in caplog.text
    caplog.clear()
    pvit_ext.load_pretrained_model(str(modules), str(other), device="cpu")
    assert said in caplog.text


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_dtype_is_the_bases(modules: Path, llava_checkpoint: Path, tmp_path: Path, dtype: Any) -> None:
    merge_checkpoint(str(modules), str(tmp_path / "out"), dtype=dtype)
    found = load(tmp_path / "out", dtype=dtype or "float32")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (values.get("dtype") or values.get("torch_dtype")) == (dtype or "float32")
    assert torch.equal(logits(found), logits(load(modules, dtype=dtype or "float32")))


def test_lora_on_a_lora(llava_checkpoint: Path, tmp_path: Path) -> None:
    first, _ = stock_lora(llava_checkpoint, tmp_path / "first")
    merge_checkpoint(str(first), str(tmp_path / "whole"))
    second, expected = stock_lora(tmp_path / "whole", tmp_path / "second", seed=8)
    path = second / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(first)}))
    assert torch.equal(plain_logits(load(second)), plain_logits(expected))
    merge_checkpoint(str(second), str(tmp_path / "both"))
    assert torch.equal(plain_logits(load(tmp_path / "both")), plain_logits(expected))


def test_a_temperature_without_sampling(llava_checkpoint: Path, modules: Path, tmp_path: Path) -> None:
    """Vicuna's, which transformers reads and refuses to write."""
    import shutil

    base = tmp_path / "base"
    shutil.copytree(llava_checkpoint, base)
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6}))
    merge_checkpoint(str(modules), str(tmp_path / "out"), base=str(base))
    assert load(tmp_path / "out").region_config is not None


def test_nothing_to_merge(llava_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["merge", str(llava_checkpoint), "--out", str(tmp_path / "out")]) == 2
    assert "a whole checkpoint, there is nothing to merge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_without_one_of_its_tensors(
    llava_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = stock_lora(llava_checkpoint, tmp_path / "lora")
    change_tensors(folder, lambda tensors: tensors.pop(sorted(tensors)[0]))
    assert cli.main(["merge", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "lacks base_model.model.model.layers.0.mlp.down_proj.lora_A.weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_merged_is_said_before_anything_loads(
    modules: Path, llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*_: Any) -> None:
        raise AssertionError("it loads a model")

    monkeypatch.setattr("pvit_ext.tools.merge.host_of_checkpoint", loads)
    (tmp_path / "file").touch()
    for out in (modules, llava_checkpoint, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="exists and is not an empty folder: name a new one"):
            merge_checkpoint(str(modules), str(out))
    with pytest.raises(ValueError, match="the name of the folder to write is empty"):
        merge_checkpoint(str(modules), "")
    with pytest.raises(ValueError, match="modules is named as its own base"):
        merge_checkpoint(str(modules), str(tmp_path / "out"), base=f"{modules}/")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.json").touch()
    with pytest.raises(FileNotFoundError, match=r"data has no config\.json: name the folder"):
        merge_checkpoint(str(tmp_path / "data"), str(tmp_path / "out"))


def test_a_base_of_another_size(llava_checkpoint: Path, tmp_path: Path) -> None:
    folder, _ = stock_lora(llava_checkpoint, tmp_path / "lora")
    wide = build_llava(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    with pytest.raises(ValueError, match=r"lora does not fit its base, .*wide: "):
        merge_checkpoint(str(folder), str(tmp_path / "out"), base=str(wide))


def test_a_machine_that_is_too_small_is_not_said_to_be_a_wrong_base(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(LlavaHost, "load", full)
    with pytest.raises(RuntimeError, match="not enough memory"):
        merge_checkpoint(str(modules), str(tmp_path / "out"))
