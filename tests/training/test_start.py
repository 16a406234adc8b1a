"""Training from a MODEL that is no whole checkpoint."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pvit_ext
from pvit_ext.tokens.serialization import CONFIG_FILE
from pvit_ext.train import main
from pvit_ext.training import start
from pvit_ext.training import trainer as region_trainer
from pvit_ext.training.start import MERGED, resolve_model
from tests.checkpoints import load
from tests.hosts.llava.test_checkpoint_kinds import change, plain_logits, stock_lora
from tests.training.runs import flags, run

LORA: dict[str, Any] = {"stage": "finetune", "lora_enable": True, "lora_r": 4}


def value(arguments: list[str], flag: str) -> str:
    return arguments[len(arguments) - 1 - arguments[::-1].index(flag) + 1]


def train_lora(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> tuple[Any, Any]:
    """The trained model, peft's wrapper included, and all samples as one batch."""
    seen: list[Any] = []
    save = region_trainer.RegionTrainer.save_state

    def keep(trainer: Any) -> None:
        items = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
        seen.append((trainer.model, trainer.data_collator(items)))
        save(trainer)

    monkeypatch.setattr(region_trainer.RegionTrainer, "save_state", keep)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()
    monkeypatch.setattr(region_trainer.RegionTrainer, "save_state", save)
    return seen[0]


def logits_of(model: Any, batch: Any) -> torch.Tensor:
    model.get_vision_tower().half().float()  # as LLaVA trains with it
    with torch.no_grad():
        return model.eval()(**copy.deepcopy(batch)).logits


@pytest.mark.slow
def test_a_second_lora_round_continues_from_the_first(
    llava_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    own = {**LORA, "vision_tower": llava_checkpoint / "tower"}
    train_lora(monkeypatch, flags(llava_checkpoint, data, first, **own))
    capsys.readouterr()
    untrained, batch = train_lora(monkeypatch, flags(first, data, second, learning_rate=0.0, **own))
    assert f"{first}: LoRA adapter and region modules on {llava_checkpoint}: training starts from both" in (
        capsys.readouterr().out
    )
    whole = pvit_ext.load_pretrained_model(str(first), device="cpu")[1]
    expected = logits_of(whole, batch)
    assert torch.equal(logits_of(untrained, batch), expected)
    assert not torch.allclose(expected, logits_of(load(llava_checkpoint, region_config=whole.region_config), batch))
    trained, batch = train_lora(monkeypatch, flags(first, data, tmp_path / "third", **own))
    for path in first.glob("*.safetensors"):
        path.unlink()  # what the second round wrote loads without the first
    (tmp_path / "third").rename(tmp_path / "moved")  # with what it lies on
    loaded = logits_of(load(tmp_path / "moved"), batch)
    torch.testing.assert_close(loaded, logits_of(trained, batch), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(loaded, expected, atol=1e-3)


def test_region_modules_as_model(llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path) -> None:
    arguments = resolve_model(flags(stage1, data, tmp_path / "out"))
    assert value(arguments, "--model_name_or_path") == str(llava_checkpoint)
    assert value(arguments, "--region_modules") == str(stage1)
    with pytest.raises(ValueError, match="holds region modules, and --region_modules names others"):
        resolve_model(flags(stage1, data, tmp_path / "out", region_modules=tmp_path))


def test_region_modules_of_another_base_are_said(
    llava_checkpoint: Path,
    data: Path,
    stage1: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """Nothing else tells: the run trains on, from a loss that a new projector would have."""
    moved = Path(shutil.copytree(llava_checkpoint, tmp_path / "moved"))
    for base in (llava_checkpoint, moved):  # by its place, by its weights
        resolve_model(flags(base, data, tmp_path / "out", region_modules=stage1))
        assert "trained on" not in capsys.readouterr().out
    (weights,) = moved.glob("model*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"else")
    resolve_model(flags(moved, data, tmp_path / "out", region_modules=stage1))
    said = f"{stage1}: region modules trained on {llava_checkpoint}, MODEL is {moved}, whose weights are others"
    assert said in capsys.readouterr().out
    weights.write_bytes(weights.read_bytes() + b"more")  # files of other sizes may hold the same
    resolve_model(flags(moved, data, tmp_path / "out", region_modules=stage1))
    assert f"MODEL is {moved}: right only if both hold the same weights" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(start, "holds_same_weights", lambda *_: pytest.fail("weights are read where nothing is said"))
    resolve_model(flags(moved, data, tmp_path / "out", region_modules=stage1))


def test_no_adapter_and_no_trained_region_modules_are_left_out_in_silence(
    llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A recipe always names the region modules of stage 1."""
    own = {**LORA, "save_strategy": "steps", "save_steps": 2}
    train_lora(monkeypatch, flags(llava_checkpoint, data, tmp_path / "lora", **own))
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "whole", stage="finetune"))
    for folder in (tmp_path / "lora", tmp_path / "lora" / "checkpoint-2"):
        with pytest.raises(ValueError, match=rf"--region_modules {folder} .*LoRA adapter.*--model_name_or_path"):
            resolve_model(flags(llava_checkpoint, data, tmp_path / "out", region_modules=folder))
        with pytest.raises(ValueError, match="holds region modules, and --region_modules names others"):
            resolve_model(flags(folder, data, tmp_path / "out", region_modules=stage1))
    capsys.readouterr()
    resolve_model(flags(tmp_path / "whole", data, tmp_path / "out", region_modules=stage1))
    assert f"{stage1}: its region modules replace those of {tmp_path / 'whole'}" in capsys.readouterr().out
    resolve_model(flags(tmp_path / "whole", data, tmp_path / "out", region_modules=""))
    assert "replace" not in capsys.readouterr().out


def test_an_adapter_that_region_modules_were_written_over_is_not_left_out(
    llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(stage1, tmp_path / "both"))
    (both / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"--region_modules {both} holds a LoRA adapter too"):
        resolve_model(flags(llava_checkpoint, data, tmp_path / "out", region_modules=both))
    with pytest.raises(
        ValueError, match=r"holds a LoRA result and region modules .* load that folder: it is an adapter without"
    ):
        resolve_model(flags(both, data, tmp_path / "out"))


@pytest.mark.parametrize("copied", [True, False])
def test_a_merge_is_known_by_what_it_was_merged_from(
    llava_checkpoint: Path, data: Path, tmp_path: Path, copied: bool
) -> None:
    """Whatever the folder is called now, and whenever its files were copied."""
    folder, _ = stock_lora(llava_checkpoint, tmp_path / "lora")
    resolve_model(flags(folder, data, tmp_path / "out"))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved, copy_function=shutil.copyfile) if copied else folder.rename(moved)
    assert resolve_model(flags(moved, data, tmp_path / "out"))[-1] == str(tmp_path / "out" / MERGED)


def test_stock_lora_as_model(llava_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    folder, expected = stock_lora(llava_checkpoint, tmp_path / "lora")
    command = flags(folder, data, tmp_path / "out")
    merged = value(resolve_model(command), "--model_name_or_path")
    assert merged == str(tmp_path / "out" / MERGED)
    assert torch.equal(plain_logits(load(merged)), plain_logits(expected))
    written = (Path(merged) / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(command)[-1] == merged  # resuming does not merge again
    assert (Path(merged) / "model.safetensors").stat().st_mtime_ns == written
    other, _ = stock_lora(llava_checkpoint, tmp_path / "other", seed=4)
    with pytest.raises(ValueError, match=r"was merged from something else than .*other.*another --output_dir"):
        resolve_model(flags(other, data, tmp_path / "out"))


def test_region_modules_on_a_merge_of_the_same_lora_are_at_home(
    llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path, capsys: Any
) -> None:
    """Each stage merges it into an output of its own."""
    folder, _ = stock_lora(llava_checkpoint, tmp_path / "lora")
    merged = value(resolve_model(flags(folder, data, tmp_path / "out")), "--model_name_or_path")
    modules = Path(shutil.copytree(stage1, tmp_path / "modules", ignore=shutil.ignore_patterns("checkpoint-*")))
    written = modules / CONFIG_FILE
    written.write_text(json.dumps({**json.loads(written.read_text()), "base": merged}))
    other, _ = stock_lora(llava_checkpoint, tmp_path / "other", seed=4)
    for model, said in ((folder, False), (other, True)):
        command = flags(model, data, tmp_path / f"out-{model.name}", region_modules=modules)
        resolve_model(command)
        assert ("region modules trained on" in capsys.readouterr().out) == said


def test_projector_as_model(llava_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """It names no base, so it cannot be told from an incomplete checkpoint."""
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "config.json").write_text((llava_checkpoint / "config.json").read_text())
    (tmp_path / "pretrain" / "mm_projector.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"mm_projector.bin.*--pretrain_mm_mlp_adapter"):
        resolve_model(flags(tmp_path / "pretrain", data, tmp_path / "out"))


def test_relative_names_are_stored_absolute(
    llava_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(llava_checkpoint.parent)
    name = llava_checkpoint.name
    own = {"model_name_or_path": name, "vision_tower": f"{name}/tower", "stage": "align"}
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "out", save_strategy="steps", save_steps=2, **own))
    monkeypatch.chdir(tmp_path)
    assert json.loads((tmp_path / "out" / "region_config.json").read_text())["base"] == str(llava_checkpoint)
    values = json.loads((tmp_path / "out" / "checkpoint-2" / "config.json").read_text())
    assert values["mm_vision_tower"] == str(llava_checkpoint / "tower")
    assert load("out").region_config is not None


def test_a_released_checkpoint_trains(
    llava_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = change(llava_checkpoint, tmp_path / "released", model_type="llava")
    outputs = [tmp_path / "a", tmp_path / "b"]
    for checkpoint, output in zip((released, llava_checkpoint), outputs, strict=True):
        run(monkeypatch, flags(checkpoint, data, output, stage="align", vision_tower=llava_checkpoint / "tower"))
    one, other = (load_file(output / "region_modules.safetensors") for output in outputs)
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_checkpoints_of_a_run_load_to_the_original_ids(
    llava_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "Which is larger,  the first <s> or the second?"
    wanted = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")[0](text).input_ids
    for name, own in {"align": {"stage": "align"}, "full": {"stage": "finetune"}, "lora": LORA}.items():
        arguments = flags(llava_checkpoint, data, tmp_path / name, save_strategy="steps", save_steps=2, **own)
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        main()
        for folder in (tmp_path / name, tmp_path / name / "checkpoint-2"):
            assert pvit_ext.load_pretrained_model(str(folder), device="cpu")[0](text).input_ids == wanted, folder
            if folder.name.startswith("checkpoint"):
                original = (llava_checkpoint / "tokenizer.model").read_bytes()
                assert (folder / "tokenizer.model").read_bytes() == original


@pytest.mark.slow
def test_llavas_own_first_stage_leaves_no_regions(
    llava_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = json.loads(data.read_text())
    captions = data.with_name("captions.json")
    captions.write_text(json.dumps([record for record in records if not record.get("regions")]))
    own = {"tune_mm_mlp_adapter": True, "region_encoder_options": "", "per_device_train_batch_size": 1}
    own |= {"save_strategy": "steps", "save_steps": 1}
    first = flags(llava_checkpoint, captions, tmp_path / "stage0", **own)
    place = first.index("--region_encoder_options")
    first = first[:place] + first[place + 2 :]
    run(monkeypatch, first)
    table = [line for line in capsys.readouterr().out.splitlines() if line.endswith(("frozen", "trained"))]
    assert [line.split()[0] for line in table if line.endswith("trained")] == ["mm_projector"]
    assert load(tmp_path / "stage0").region_config is None
    projector = torch.load(tmp_path / "stage0" / "mm_projector.bin", weights_only=True)
    whole = load_file(tmp_path / "stage0" / "model.safetensors")
    assert set(projector) == {name for name in whole if "mm_projector" in name}
    assert all(torch.equal(value, whole[name]) for name, value in projector.items())
    other = {"stage": "align", "region_encoder": "ferret", "region_encoder_options": "{}"}
    tower = {"vision_tower": llava_checkpoint / "tower"}
    run(monkeypatch, flags(tmp_path / "stage0", data, tmp_path / "stage1", **other, **tower))
    assert load(tmp_path / "stage1").region_config.encoder == "ferret"
    one = tmp_path / "stage0" / "checkpoint-1"
    assert load(one).region_config is None
    run(monkeypatch, flags(one, data, tmp_path / "from-checkpoint", **other, **tower))
    shutil.rmtree(tmp_path / "stage0" / "checkpoint-2")
    capsys.readouterr()
    run(monkeypatch, first)
    assert f"resuming from {one}" in capsys.readouterr().out
    resumed = torch.load(tmp_path / "stage0" / "mm_projector.bin", weights_only=True)
    assert all(torch.equal(value, resumed[name]) for name, value in projector.items())
