"""Both training stages in this process, on a tiny checkpoint and real files."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.training.checkpointing import newest_complete
from tests.checkpoints import tower_tensors, unfreeze_tower
from tests.training.runs import flags, run


def test_stage1_changes_no_byte_outside_projector_and_delimiters(llava_checkpoint: Path, stage1: Path) -> None:
    before = load_file(llava_checkpoint / "model.safetensors")
    after = load_file(stage1 / "checkpoint-2" / "model.safetensors")
    shared = before.keys() & after.keys()
    assert before.keys() - shared <= {key for key in before if "vision_tower" in key}
    assert len(shared) > 20
    for key in shared - {key for key in shared if ".vision_tower." in key}:
        assert before[key].numpy().tobytes() == after[key].numpy().tobytes(), key
    # LLaVA rounds its frozen vision tower to float16 for a run without bf16
    for key in shared & {key for key in shared if ".vision_tower." in key}:
        assert torch.equal(before[key].half(), after[key].half()), key
    modules = load_file(stage1 / "region_modules.safetensors")
    assert {key for key in modules if key.startswith("region_projector")} == {
        "region_projector.features.weight",
        "region_projector.features.bias",
        "region_projector.delimiters.weight",
    }
    for key in (key for key in modules if key.startswith("region_projector")):
        assert torch.equal(modules[key], after[f"model.{key}"]), key


def test_stage1_trains_projector_and_delimiters(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch
) -> None:
    untrained = run(
        monkeypatch, flags(llava_checkpoint, data, tmp_path / "a", stage="align", learning_rate=0.0)
    ).model.get_model()
    trained = run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "b", stage="align")).model.get_model()
    before, after = untrained.region_projector.state_dict(), trained.region_projector.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before)
    encoder = trained.region_encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in untrained.region_encoder.state_dict().items())


def test_stage2_checkpoint_loads_back_with_identical_logits(
    llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = flags(
        llava_checkpoint, data, tmp_path / "stage2", stage="finetune", region_modules=stage1, region_box_embedding=True
    )
    trainer = run(monkeypatch, arguments)
    trained = trainer.model.eval()
    assert not torch.equal(trained.get_model().region_projector.box_embedding.weight, torch.zeros(48, 4))
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(tmp_path / "stage2"), device="cpu")
    own, loaded = trained.state_dict(), model.state_dict()
    assert own.keys() == loaded.keys()
    # LLaVA rounds its frozen vision tower to float16 for a run without bf16, and reads it from its own files again
    model.get_vision_tower().half().float()
    batch = trainer.batch_of_all
    with torch.no_grad():
        expected, found = trained(**copy.deepcopy(batch)), model(**batch)
    assert torch.equal(expected.logits, found.logits)
    assert torch.equal(expected.loss, found.loss)
    answers = pvit_ext.ask(
        model, tokenizer, processor, [Query(data.parent / "0.png", "What is in <region>?", [Region.box(5, 5, 40, 40)])]
    )
    assert len(answers) == 1


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_a_checkpoint_that_holds_its_vision_tower_trains_with_it(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """LLaVA-1.6."""
    checkpoint = unfreeze_tower(llava_checkpoint, tmp_path / "llava-own")
    trainer = run(monkeypatch, flags(checkpoint, data, tmp_path / "out", stage=stage))
    tower = trainer.model.get_vision_tower()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    loaded = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")[1].get_vision_tower()
    own = tower_tensors(checkpoint)
    for found, rounded in ((tower, True), (loaded, stage == "finetune")):
        state = {key.removeprefix("vision_model."): value for key, value in found.vision_tower.state_dict().items()}
        assert own.keys() <= state.keys()
        # LLaVA rounds its frozen vision tower to float16 for a run without bf16
        assert all(torch.equal(state[key], value.half().float() if rounded else value) for key, value in own.items())


def test_stage1_output_loads_on_its_base(stage1: Path, llava_checkpoint: Path) -> None:
    _, model, _, _ = pvit_ext.load_pretrained_model(str(stage1), device="cpu")
    stored = load_file(stage1 / "region_modules.safetensors")
    assert torch.equal(model.get_model().region_projector.features.weight, stored["region_projector.features.weight"])
    base = load_file(llava_checkpoint / "model.safetensors")
    assert torch.equal(model.lm_head.weight, base["lm_head.weight"])


def test_mm_projector_alone_is_exported_and_a_model_without_its_optimizer_is_nothing_to_continue(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaVA's own trainer writes no model with --tune_mm_mlp_adapter."""
    changed = {"tune_mm_mlp_adapter": True, "save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path, save_total_limit=1, **changed))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    exported, kept = (load_file(path / "model.safetensors") for path in (tmp_path, tmp_path / "checkpoint-2"))
    assert exported.keys() == kept.keys()
    before = load_file(llava_checkpoint / "model.safetensors")
    assert not torch.equal(exported["model.mm_projector.0.weight"], before["model.mm_projector.0.weight"])
    assert newest_complete(tmp_path)[0] is None


def test_a_checkpoint_of_another_stage_or_encoder_is_not_continued(
    llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All start over the folder of a stage 1 run, as when OUTPUT is forgotten."""
    with pytest.raises(
        ValueError, match=r"--output_dir .* holds region modules \(.*this run writes a whole checkpoint"
    ):
        run(monkeypatch, flags(llava_checkpoint, data, stage1, stage="finetune"))
    stopped = shutil.copytree(stage1, tmp_path / "stopped", ignore=shutil.ignore_patterns("region_*"))
    shutil.copytree(stage1 / "checkpoint-2", stopped / "checkpoint-2", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"checkpoint-2 .*stage was 'align', is 'finetune'.*--output_dir"):
        run(monkeypatch, flags(llava_checkpoint, data, stopped, stage="finetune"))
    other = {"stage": "align", "region_encoder": "osprey", "region_encoder_options": "{}"}
    with pytest.raises(ValueError, match=r"region encoder was 'regionclip', is 'osprey'"):
        run(monkeypatch, flags(llava_checkpoint, data, stage1, **other))


@pytest.mark.parametrize(
    ("encoder", "words"),
    [("text", ["[0.056,0.083,0.444,0.667]"]), ("overlay", ["within the red rectangle", "within the green rectangle"])],
)
def test_encoders_without_rows_reach_text_and_pixels(
    encoder: str, words: list[str], llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch
) -> None:
    changed = {"region_encoder": encoder, "region_encoder_options": "{}", "region_jitter": 0}
    trainer = run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="finetune", **changed))
    batch = trainer.batch_of_all
    assert batch["regions"] == [[]] * 8
    assert not (batch["input_ids"] == -300).any()
    prompt = trainer.train_dataset.tokenizer.decode(batch["input_ids"][4].clamp(min=0), skip_special_tokens=True)
    for word in words:
        assert word.replace(" ", "") in prompt.replace(" ", "")
    stock = run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "stock", stage="align"))
    same = [torch.equal(*pair) for pair in zip(batch["images"], stock.batch_of_all["images"], strict=True)]
    assert same == ([True] * 8 if encoder == "text" else [False] * 6 + [True] * 2)
    assert pvit_ext.load_pretrained_model(str(tmp_path), device="cpu")[1].region_config.encoder == encoder
    with pytest.raises(ValueError, match=f"align trains region modules, '{encoder}' has none"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "align", stage="align", **changed))


def test_what_stage1_was_trained_with_is_what_its_result_is_asked_with(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base crops another way; the settings of a run stand in its config.json."""
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "out", stage="align", image_aspect_ratio="square"))
    assert pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")[1].config.image_aspect_ratio == "pad"
    model = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")[1]
    assert model.config.image_aspect_ratio == "square"
    assert model.region_config.conv_version == "v1"
