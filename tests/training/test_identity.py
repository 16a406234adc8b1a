"""A resumed run says, or refuses, whatever makes its losses others than those of the run that it continues."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file

from pvit_ext.files import fingerprint
from pvit_ext.training import checkpointing
from pvit_ext.training.identity import Identity
from tests.samples import write_training_data
from tests.training.runs import flags, run

from pvit_ext.hosts.checkpoint_contents import checkpoint_contents  # isort: skip
from pvit_ext.training.identity import data_contents  # isort: skip

SAVES = {"stage": "align", "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
RATES = ("learning_rate", "mm_projector_lr", "weight_decay")
SAID = "losses will not be those of the uninterrupted run: "


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def saved(llava_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a run of two steps, of which the first is kept."""
    output = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, flags(llava_checkpoint, data, output, **SAVES))
    shutil.rmtree(output / "checkpoint-2")
    return output


@pytest.fixture
def output(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "output"))


def said(text: str) -> list[str]:
    return [line.removeprefix(SAID) for line in text.splitlines() if line.startswith(SAID)]


def test_the_same_run_elsewhere_and_with_other_logging_is_the_same_run(
    llava_checkpoint: Path, data: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    moved = Path(shutil.copytree(llava_checkpoint, tmp_path / "moved"))
    copied = Path(shutil.copy(data, tmp_path / "copied.json"))
    images = Path(shutil.copytree(data.parent, tmp_path / "images", copy_function=shutil.copyfile))  # with new times
    harmless = {"logging_steps": 3, "save_total_limit": 2, "dataloader_num_workers": 1, "gradient_checkpointing": True}
    same = {"image_folder": images, "region_encoder": "regionclip", "region_delimiters": True}
    run(monkeypatch, flags(moved, copied, output, **{**SAVES, **harmless, **same}))
    printed = capsys.readouterr().out
    assert f"resuming from {output / 'checkpoint-1'}" in printed
    assert said(printed) == []


def test_whatever_changes_losses_is_said(
    llava_checkpoint: Path, data: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = Path(shutil.copytree(data.parent, tmp_path / "data"))
    other = folder / data.name
    other.write_text(data.read_text().replace("seven red", "seven 1ed"))
    changed = {"warmup_ratio": 0.9, "max_grad_norm": 0.5, "image_aspect_ratio": "square"}
    run(monkeypatch, flags(llava_checkpoint, other, output, **{**SAVES, **changed}))
    names = {line.split(" was ")[0] for line in said(capsys.readouterr().out)}
    ratio = next(name for name in ("warmup_ratio", "warmup_steps") if name in names)
    assert names == {ratio, "max_grad_norm", "image_aspect_ratio", "data_path"}


def test_what_the_saved_optimizer_decides_is_said_to_have_no_effect(
    llava_checkpoint: Path, data: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    again = Path(shutil.copytree(output, tmp_path / "again"))
    plain = run(monkeypatch, flags(llava_checkpoint, data, again, **SAVES))
    changed = {"learning_rate": 0.5, "weight_decay": 0.1, "adam_beta2": 0.5}
    capsys.readouterr()
    trainer = run(monkeypatch, flags(llava_checkpoint, data, output, **{**SAVES, **changed}))
    printed = capsys.readouterr().out
    idle = "without effect, since the run goes on with its optimizer and schedule: "
    lines = [line.removeprefix(idle) for line in printed.splitlines() if line.startswith(idle)]
    assert [line.split(" was ")[0] for line in lines] == sorted(changed)
    assert said(printed) == []
    tensors = zip(plain.model.parameters(), trainer.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in tensors)


@pytest.mark.parametrize(
    ("run", "settings", "idle"),
    [
        ({}, {"lr_scheduler_type": "cosine"}, ["learning_rate", "mm_projector_lr", "weight_decay"]),
        ({"zero stage": 2}, {"lr_scheduler_type": "linear"}, ["learning_rate", "mm_projector_lr"]),
        ({"zero stage": 2}, {"lr_scheduler_type": "linear", "deepspeed.scheduler.type": "WarmupLR"}, []),
        ({}, {"lr_scheduler_type": "polynomial"}, ["weight_decay"]),  # it divides by the rate that is given
        ({}, {"lr_scheduler_type": "cosine_with_min_lr"}, ["weight_decay"]),
    ],
)
def test_what_comes_back_with_a_checkpoint_depends_on_schedule_and_optimizer(
    tmp_path: Path, run: dict[str, Any], settings: dict[str, Any], idle: list[str]
) -> None:
    before, now = (dict.fromkeys(RATES, value) for value in (0.1, 0.2))
    checkpointing.mark_complete(tmp_path, Identity(run, settings | before, {}))
    other = Identity(run, settings | now, {})
    assert [line.split(" was ")[0] for line in checkpointing.without_effect(tmp_path, other)] == idle
    losses = checkpointing.check_same_run(tmp_path, other)
    assert sorted(RATES) == sorted([*idle, *(line.split(" was ")[0] for line in losses)])


def test_images_that_changed_under_their_names_are_said(
    llava_checkpoint: Path, data: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = Path(shutil.copytree(data.parent, tmp_path / "data"))
    for name in ("3.png", "5.png"):
        Image.open(folder / name).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / name)
    run(monkeypatch, flags(llava_checkpoint, folder / data.name, output, **SAVES))
    assert said(capsys.readouterr().out) == [
        "2 of 8 image files that were compared hold something else by now: 3.png, 5.png"
    ]


def test_a_base_with_another_tokenizer_or_image_processor_is_said(
    llava_checkpoint: Path, data: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    other = Path(shutil.copytree(llava_checkpoint, tmp_path / "other"))
    change_json(other / "tokenizer_config.json", add_bos_token=False)
    change_json(other / "tower" / "preprocessor_config.json", image_mean=[0, 0, 0])
    change_json(other / "config.json", mm_vision_tower=str(other / "tower"))
    run(monkeypatch, flags(other, data, output, **SAVES))
    names = {line.split(" was ")[0] for line in said(capsys.readouterr().out)}
    assert names == {"model_name_or_path", "model_name_or_path processor", "vision_tower processor"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optim": "adafactor"}, r"optimizer was 'AdamW', is 'Adafactor'"),
        ({"mm_projector_lr": 1e-4, "stage": "finetune"}, r"mm_projector_lr given was False, is True"),
    ],
)
def test_an_optimizer_that_cannot_read_the_saved_state_is_refused(
    llava_checkpoint: Path, data: Path, output: Path, monkeypatch: pytest.MonkeyPatch, changed: Any, message: str
) -> None:
    (output / "region_config.json").unlink()  # the run was stopped before it wrote a result
    with pytest.raises(ValueError, match=rf"written by another run: .*{message}.*Continue it with its own flags"):
        run(monkeypatch, flags(llava_checkpoint, data, output, **{**SAVES, **changed}))


@pytest.mark.skipif(Version(torch.__version__) < Version("2.4"), reason="torch has no fused AdamW for CPUs before 2.4")
def test_another_implementation_of_the_optimizer_goes_on(
    llava_checkpoint: Path, data: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    names = {"adamw_torch", "adamw_torch_fused"}
    trainer = run(monkeypatch, flags(llava_checkpoint, data, output, **SAVES))
    (other,) = names - {getattr(trainer.args.optim, "value", trainer.args.optim)}
    shutil.rmtree(output / "checkpoint-2")
    capsys.readouterr()
    run(monkeypatch, flags(llava_checkpoint, data, output, optim=other, **SAVES))
    assert [line.split(" was ")[0] for line in said(capsys.readouterr().out)] == ["optim"]


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def another_model(source: Path, folder: Path) -> Path:
    """As a fine-tuned one: names, shapes and sizes are the same."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    save_file({key: value * 1.01 for key, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_an_adapter_is_not_continued_on_another_base(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = {**SAVES, "stage": "finetune", "lora_enable": True, "lora_r": 4}
    monkeypatch.setattr("sys.argv", ["train", *flags(llava_checkpoint, data, tmp_path / "out", **lora)])
    from pvit_ext.train import main

    main()
    other = another_model(llava_checkpoint, tmp_path / "other")
    monkeypatch.setattr("sys.argv", ["train", *flags(other, data, tmp_path / "out", **lora)])
    with pytest.raises(ValueError, match=r"another run: model_name_or_path was .*model\.safetensors .*, is "):
        main()


def test_every_argument_is_compared_unless_it_is_known_to_be_harmless(saved: Path) -> None:
    """No secret and no path that may differ goes into a checkpoint's marker."""
    marker = json.loads((saved / "checkpoint-1" / "pvit_ext_complete.json").read_text())
    compared = marker["settings"].keys() | marker["run"].keys()
    own = {item.name for item in dataclasses.fields(transformers.TrainingArguments)}
    assert {"learning_rate", "adam_beta2", "max_grad_norm", "label_smoothing_factor", "optim"} <= compared & own
    assert {"mm_vision_select_layer", "image_aspect_ratio", "model_max_length", "region_jitter"} <= compared
    assert not {"hub_token", "output_dir", "run_name", "logging_steps", "save_steps", "local_rank"} & compared


def test_contents_of_checkpoints_and_data(llava_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(llava_checkpoint, tmp_path / "moved"))
    assert checkpoint_contents(str(llava_checkpoint)) == checkpoint_contents(str(moved))
    assert checkpoint_contents(str(another_model(moved, tmp_path / "x"))) != checkpoint_contents(str(moved))
    assert checkpoint_contents("nobody/has-this") == "nobody/has-this"
    assert data_contents(str(tmp_path / "moved")) != data_contents(str(tmp_path / "x"))


def test_fingerprint_samples_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(40 << 20))
    before = fingerprint(path)
    with path.open("r+b") as stream:
        for start in range(0, 40 << 20, 1 << 14):
            stream.seek(start)
            stream.write(b"w")
    assert fingerprint(path) != before
    path.write_bytes(bytes((40 << 20) + 1))
    assert fingerprint(path) != before
