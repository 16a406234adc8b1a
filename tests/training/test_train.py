"""Both training stages in this process, on a tiny checkpoint and real files."""

from __future__ import annotations

import copy
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.hosts.llava import compat, cpu_launch
from tests.checkpoints import tower_tensors, unfreeze_tower
from tests.tiny import TINY_REGIONCLIP

compat.prepare_training()

from llava import conversation as llava_conversation  # noqa: E402
from llava.train import train as llava_train  # noqa: E402

from pvit_ext.data.records import RecordError  # noqa: E402
from pvit_ext.hosts.llava.dataset import RegionDataset  # noqa: E402
from pvit_ext.hosts.llava.image_layout import ImageLayout  # noqa: E402
from pvit_ext.regions.jitter import jitter_box  # noqa: E402
from pvit_ext.regions.region import RegionError  # noqa: E402
from pvit_ext.train import main  # noqa: E402
from pvit_ext.training import trainer as region_trainer  # noqa: E402
from pvit_ext.training.arguments import expand_command_line  # noqa: E402
from pvit_ext.training.checkpointing import newest_complete  # noqa: E402
from pvit_ext.training.llava.arguments import RegionDataArguments, RegionModelArguments  # noqa: E402
from pvit_ext.training.llava.host import LlavaHost  # noqa: E402
from pvit_ext.training.sampler import EpochSampler  # noqa: E402
from pvit_ext.training.stages import freeze_for_stage, parameter_table  # noqa: E402
from tests.training.runs import flags, run  # noqa: E402


def record(
    number: int, text: str = "What is in <region>?", regions: Any = ((5, 5, 40, 40),), image: bool = True
) -> dict:
    value = ("<image>\n" if image else "") + text
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "seven red"}]
    sample: dict[str, Any] = {"id": str(number), "conversations": turns}
    if image:
        sample["image"] = f"{number}.png"
    if regions:
        sample["regions"] = [list(region) for region in regions]
    return sample


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        pixels = np.random.RandomState(number).randint(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(images: Path) -> Path:
    """Records with one region, two regions, an image only, and text only."""
    records = [record(number) for number in range(4)]
    records += [record(4, "Compare <region> with <region>.", [(5, 5, 40, 40), (50, 10, 80, 30)]), record(5)]
    records += [record(6, "Describe the image.", ()), record(7, "What is this?", (), image=False)]
    path = images / "train.json"
    path.write_text(json.dumps(records, indent=1))
    return path


@pytest.fixture(scope="module")
def stage1(llava_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a stage 1 run that also kept a whole checkpoint."""
    output = tmp_path_factory.mktemp("stage1")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, flags(llava_checkpoint, data, output, stage="align", save_strategy="steps", save_steps=2))
    return output


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
    batch = trainer.whole_batch
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
    llava_checkpoint: Path, data: Path, stage1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both start over the folder of a stage 1 run, as when OUTPUT is forgotten."""
    with pytest.raises(ValueError, match=r"checkpoint-2 .*stage was 'align', is 'finetune'.*--output_dir"):
        run(monkeypatch, flags(llava_checkpoint, data, stage1, stage="finetune"))
    other = {"stage": "align", "region_encoder": "osprey", "region_encoder_options": "{}"}
    with pytest.raises(ValueError, match=r"region encoder was 'regionclip', is 'osprey'"):
        run(monkeypatch, flags(llava_checkpoint, data, stage1, **other))


def make_dataset(llava_checkpoint: Path, path: Path, kind: Any = RegionDataset, **changed: Any) -> Any:
    from transformers import AutoTokenizer, CLIPImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(
        llava_checkpoint, use_fast=False, model_max_length=512, padding_side="right"
    )
    tokenizer.pad_token = tokenizer.unk_token
    arguments = SimpleNamespace(
        image_folder=str(path.parent), image_aspect_ratio="pad", is_multimodal=True, mm_use_im_start_end=False,
        region_jitter=0.0, max_bad_records=0,
        image_processor=CLIPImageProcessor.from_pretrained(llava_checkpoint / "tower"),
    )  # fmt: skip
    for key, value in changed.items():
        setattr(arguments, key, value)
    dataset = kind(data_path=str(path), tokenizer=tokenizer, data_args=arguments)
    dataset.layout = ImageLayout(arguments.image_processor, 28, 4, arguments.image_aspect_ratio, None, "flat")
    return dataset


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch):
    from pvit_ext.hosts.llava.region_token import tokenizer_region_token

    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["v1"])
    monkeypatch.setattr(llava_train, "tokenizer_image_token", tokenizer_region_token)


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_items_without_regions_equal_llavas(
    llava_checkpoint: Path, images: Path, tmp_path: Path, template, aspect: str
) -> None:
    records = [record(number, "Describe the image.", ()) for number in range(3)]
    records.append(record(7, "What is this?", (), image=False))
    path = images / f"plain_{aspect}.json"
    path.write_text(json.dumps(records))
    ours = make_dataset(llava_checkpoint, path, image_aspect_ratio=aspect)
    stock = make_dataset(llava_checkpoint, path, llava_train.LazySupervisedDataset, image_aspect_ratio=aspect)
    assert len(ours) == len(stock) == 4
    assert ours.modality_lengths == stock.modality_lengths
    for index in range(4):
        mine, theirs = ours[index], stock[index]
        assert all(torch.equal(mine[key], theirs[key]) for key in ("input_ids", "labels", "image"))


def test_region_cut_off_by_the_maximum_length_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    path = images / "long.json"
    path.write_text(json.dumps([record(0), record(1, "Describe the image. " * 60 + "<region>")], indent=1))
    dataset = make_dataset(llava_checkpoint, path)
    dataset.tokenizer.model_max_length = 200
    assert len(dataset[0]["regions"]) == 1
    with pytest.raises(
        (RecordError, RegionError), match=r"long\.json.*--model_max_length 200|long\.json.*length is 200"
    ):
        dataset[1]


def test_masked_away_answer_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    path = images / "masked.json"
    path.write_text(json.dumps([record(0)]))
    dataset = make_dataset(llava_checkpoint, path)
    dataset.tokenizer.model_max_length = 40
    with pytest.raises(RecordError, match=r"masked\.json.*first answer ends at position"):
        dataset[0]


def test_template_that_drops_the_question_names_the_record(llava_checkpoint: Path, data: Path, template) -> None:
    llava_conversation.default_conversation = llava_conversation.conv_templates["plain"]
    with pytest.raises(RecordError, match=r"train\.json line 2.*1 regions.*keeps 0"):
        make_dataset(llava_checkpoint, data)[0]


def test_jitter_stays_within_two_percent() -> None:
    draw = np.random.default_rng(0)
    size = (300, 300)
    box = Region.box(10, 20, 110, 220).resolve(size, "line 3: region 1")
    moved = np.array([np.ravel(jitter_box(box, 0.02, draw).points) for _ in range(2000)]) - (10, 20, 110, 220)
    assert (np.abs(moved) <= (2.0001, 4.0001, 2.0001, 4.0001)).all()
    assert (np.abs(moved).max(0) > (1.9, 3.8, 1.9, 3.8)).all()
    for still in (Region.box(0, 0, 0.5, 40).resolve(size), Region.point(3, 3).resolve(size)):
        assert jitter_box(still, 0.02, draw) is still
    edge = jitter_box(Region.box(0, 0, 300, 300).resolve(size, "line 3: region 1"), 0.4, np.random.default_rng(1))
    assert edge.resolve(size) is edge  # resolved as before, and within the image
    assert edge.name == "line 3: region 1"
    assert (np.clip(np.ravel(edge.points), 0, 300) == np.ravel(edge.points)).all()
    assert jitter_box(box, 0.0, draw) is box


def test_every_epoch_has_an_order_of_its_own(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where accumulation does not divide the micro-batches, which transformers 4.36 takes into the next epoch."""
    orders: list[list[tuple[int, int]]] = []
    iterate = EpochSampler.__iter__
    monkeypatch.setattr(EpochSampler, "__iter__", lambda self: iter(orders.append(list(iterate(self))) or orders[-1]))
    counts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 3}
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="align", **counts))
    assert [{epoch for epoch, _ in order} for order in orders] == [{0}, {1}, {2}]
    assert len({tuple(index for _, index in order) for order in orders}) == 3


UNEVEN = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}  # four micro-batches in an epoch


def test_resuming_is_exact_where_accumulation_does_not_divide_an_epoch(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    changed = {**UNEVEN, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    whole, resumed = (
        flags(llava_checkpoint, data, tmp_path / name, stage="align", **changed) for name in ("whole", "resumed")
    )
    steps = run(monkeypatch, whole).state.global_step
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "resumed" / "checkpoint-1")
    assert run(monkeypatch, resumed).state.global_step == steps > 2
    assert re.search(r"resuming from .*checkpoint-1", capsys.readouterr().out)
    first, second = (load_file(tmp_path / name / "region_modules.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("batch", "epochs", "said"),
    [
        (2, 3, r"the last 2 samples of each epoch's order.* left out.*transformers 5.*accumulation_steps \(now 3\)"),
        (4, 2, r"not be exact.*8 samples in batches of 4 fill no step of 3.*transformers 5"),
    ],
)
def test_an_older_transformers_gets_epochs_of_whole_steps_and_says_so(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch, capsys, batch: int, epochs: int, said: str
) -> None:
    monkeypatch.setattr(compat, "rest_of_epoch_is_a_step", lambda trainer: False)
    changed = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 3, "num_train_epochs": epochs}
    trainer = run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="align", **changed))
    assert trainer.state.global_step == epochs or (batch == 4 and trainer.state.global_step > epochs)
    assert len(trainer.get_train_dataloader()) == (3 if batch == 2 else 2)
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize("workers", [0, 1])
def test_jitter_changes_with_every_epoch(llava_checkpoint: Path, data: Path, template, workers: int) -> None:
    dataset = make_dataset(llava_checkpoint, data, region_jitter=0.02)
    epoch = 0
    order = EpochSampler(range(len(dataset)), seed=0, epoch=lambda: epoch)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, sampler=order, num_workers=workers, persistent_workers=workers > 0
    )
    epochs = []
    for epoch in (0, 1, 1):  # noqa: B007
        epochs.append([item["regions"][0].points for item in loader if item["regions"]])
    assert len(epochs[0]) == 6
    assert not any(first == second for first, second in zip(epochs[0], epochs[1], strict=True))
    assert epochs[1] == epochs[2]  # a resumed epoch, whatever was drawn before


@pytest.mark.parametrize("jitter", [-0.1, 0.5, 0.6])
def test_jitter_out_of_range_is_refused(jitter: float) -> None:
    with pytest.raises(ValueError, match="--region_jitter"):
        RegionDataArguments(region_jitter=jitter)


def test_answer_behind_the_image_rows_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    """LLaVA expands the image after the collator cut the ids: 15 rows more push the answer over the edge."""
    path = images / "cut.json"
    path.write_text(json.dumps([record(0)]))
    dataset = make_dataset(llava_checkpoint, path)
    end = int((dataset[0]["labels"] >= 0).nonzero()[0]) + 16
    dataset.tokenizer.model_max_length = end
    dataset[0]
    dataset.tokenizer.model_max_length = end - 1
    with pytest.raises(
        RecordError, match=rf"cut\.json.*first answer ends at position {end}, --model_max_length is {end - 1}"
    ):
        dataset[0]


def test_unreadable_image_names_the_record(llava_checkpoint: Path, images: Path, template) -> None:
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:200])
    path = images / "unreadable.json"
    path.write_text(json.dumps([record(0) | {"image": "broken.png"}]))
    with pytest.raises(RegionError, match=r"unreadable\.json line 1.*broken\.png"):
        make_dataset(llava_checkpoint, path)[0]


def test_flags_that_contradict_the_checkpoint_are_refused(stage1: Path) -> None:
    options = json.dumps(TINY_REGIONCLIP)
    same = RegionModelArguments(region_modules=str(stage1), region_encoder="regionclip", region_encoder_options=options)
    assert same.region_config(None).encoder == "regionclip"
    other = RegionModelArguments(region_modules=str(stage1), region_encoder="osprey", region_delimiters=False)
    with pytest.raises(ValueError, match=r"osprey.*delimiters"):
        other.region_config(None)


def test_vision_tower_is_the_checkpoints_own_unless_named(llava_checkpoint: Path) -> None:
    own = RegionModelArguments(model_name_or_path=str(llava_checkpoint))
    assert own.vision_tower == str(llava_checkpoint / "tower")
    assert RegionModelArguments(model_name_or_path=str(llava_checkpoint), vision_tower="x").vision_tower == "x"


def test_table_counts_every_parameter_once(loaded) -> None:
    _, model, _ = loaded
    freeze_for_stage(model, "align")
    lines = parameter_table(model, LlavaHost().parts(model)).splitlines()[1:]
    counts = [[int(word.replace(",", "")) for word in line[28:].split()[:2]] for line in lines]
    assert sum(total for total, _ in counts) == sum(p.numel() for p in model.parameters())
    assert sum(trained for _, trained in counts) == sum(
        p.numel() for p in model.get_model().region_projector.parameters()
    )
    assert [line.split("  ")[-1] for line in lines] == ["frozen"] * 4 + ["trained"] * 2


def test_yaml_comes_before_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 0.1\nregion_weights: null\nregion_encoder_options: {width: 8}\n")
    words = expand_command_line(["--config", str(path), "--learning_rate", "0.2"])
    assert words == ["--learning_rate", "0.1", "--region_encoder_options", '{"width": 8}', "--learning_rate", "0.2"]


def test_yaml_values_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "save_strategy: no\nlearning_rate: 1e-3\nbf16: true\nreport_to: [wandb, tensorboard]\n"
        "image_grid_pinpoints: [[336, 672]]\nrun_name: région\n",
        encoding="utf-8",
    )
    expected = "--save_strategy no --learning_rate 1e-3 --bf16 true --report_to wandb tensorboard".split()
    expected += ["--image_grid_pinpoints", "[[336, 672]]", "--run_name", "région"]
    assert expand_command_line(["--config", str(path)]) == expected


def test_a_cpu_launch_compiles_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = importlib.import_module("deepspeed.comm.torch")
    monkeypatch.setattr(backend, "build_shm_op", lambda: pytest.fail("compiled"), raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    cpu_launch.cpu_deepspeed_shm_op()
    assert backend.build_shm_op() is None


def test_unknown_stage_is_refused(llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="align, finetune"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="three"))


def test_lora_trains_the_language_model_and_loads_back_merged(
    llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    save = region_trainer.RegionTrainer.save_state

    def keep(trainer: Any) -> None:
        items = [trainer.train_dataset[index] for index in range(8)]
        seen.append((trainer.model, trainer.data_collator(items)))
        save(trainer)

    monkeypatch.setattr(region_trainer.RegionTrainer, "save_state", keep)
    own = {"stage": "finetune", "region_modules": stage1, "lora_enable": True, "lora_r": 4, "mm_projector_lr": 1e-3}
    arguments = flags(llava_checkpoint, data, tmp_path / "lora", **own)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()
    trained, batch = seen[0]
    lora = {name for name, parameter in trained.named_parameters() if "lora_" in name and parameter.requires_grad}
    assert len(lora) == 2 * 2 * 7  # A and B, two blocks, seven linear layers each
    assert all(".model.layers." in name for name in lora)
    others = {name for name, p in trained.named_parameters() if p.requires_grad} - lora
    assert {name.removeprefix("base_model.model.model.").split(".")[0] for name in others} == {
        "mm_projector",
        "region_projector",
    }

    _, model, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / "lora"), device="cpu")
    model.get_vision_tower().half().float()
    with torch.no_grad():
        expected, found = trained.eval()(**copy.deepcopy(batch)), model(**batch)
    assert not torch.equal(expected.logits, torch.zeros_like(expected.logits))
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_interrupted_lora_run_is_not_loaded_as_its_base(stage1: Path, tmp_path: Path) -> None:
    """LLaVA writes the adapter after the region modules."""
    for name in ("region_config.json", "region_modules.safetensors"):
        (tmp_path / name).write_bytes((stage1 / name).read_bytes())
    values = json.loads((tmp_path / "region_config.json").read_text())
    (tmp_path / "region_config.json").write_text(json.dumps(values | {"adapter": True}))
    with pytest.raises(FileNotFoundError, match=r"interrupted LoRA run.*adapter_config\.json"):
        pvit_ext.load_pretrained_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("encoder", "words"),
    [("text", ["[0.056,0.083,0.444,0.667]"]), ("overlay", ["within the red rectangle", "within the green rectangle"])],
)
def test_encoders_without_rows_reach_text_and_pixels(
    encoder: str, words: list[str], llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch
) -> None:
    changed = {"region_encoder": encoder, "region_encoder_options": "{}", "region_jitter": 0}
    trainer = run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="finetune", **changed))
    batch = trainer.whole_batch
    assert batch["regions"] == [[]] * 8
    assert not (batch["input_ids"] == -300).any()
    prompt = trainer.train_dataset.tokenizer.decode(batch["input_ids"][4].clamp(min=0), skip_special_tokens=True)
    for word in words:
        assert word.replace(" ", "") in prompt.replace(" ", "")
    stock = run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "stock", stage="align"))
    same = [torch.equal(*pair) for pair in zip(batch["images"], stock.whole_batch["images"], strict=True)]
    assert same == ([True] * 8 if encoder == "text" else [False] * 6 + [True] * 2)
    assert pvit_ext.load_pretrained_model(str(tmp_path), device="cpu")[1].region_config.encoder == encoder
    with pytest.raises(ValueError, match=f"align trains region modules, '{encoder}' has none"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "align", stage="align", **changed))
