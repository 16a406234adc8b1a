"""The recipes as files: run literally by the real launcher, each as users write it."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pvit_ext
from pvit_ext.training.plan.recipe import flags_of
from tests.checkpoints import unfreeze_tower
from tests.samples import write_training_data
from tests.tiny import TINY_REGIONCLIP

RECIPES = Path(__file__).parents[2] / "recipes"
ENCODERS_THAT_TRAIN: dict[str, dict[str, object]] = {
    "focal": {"least": 8},
    "gpt4roi": {"width": 32, "pool": 4, "rounds": 1},
    "ferret": {"points": 32, "groups": [8, 4], "neighbors": [4, 4]},
}
LION = [f"lion_stage{number}.sh" for number in (1, 2, 3)]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("name", [*(f"stage{number}.sh" for number in (1, 2)), "stage2_lora.sh", *LION])
def test_a_recipe_is_bash_and_python(name: str) -> None:
    text = (RECIPES / name).read_text()
    ast.parse(text)
    subprocess.run(["bash", "-n", str(RECIPES / name)], check=True)
    assert os.access(RECIPES / name, os.X_OK)


@pytest.mark.parametrize(
    ("variables", "encoder", "weights"),
    [
        ({}, "regionclip", "regionclip_pretrained-cc_rn50x4.pth"),
        ({"REGION_WEIGHTS": ""}, "regionclip", ""),
        ({"REGION_ENCODER": "regionclip", "REGION_WEIGHTS": "a.pth"}, "regionclip", "a.pth"),
        ({"REGION_ENCODER": "osprey"}, "osprey", ""),
        ({"REGION_ENCODER": "osprey", "REGION_WEIGHTS": ""}, "osprey", ""),
        ({"REGION_ENCODER": "osprey", "REGION_WEIGHTS": "a.pth"}, "osprey", "a.pth"),
    ],
)
def test_the_weights_of_regionclip_are_for_regionclip(
    variables: dict[str, str], encoder: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REGION_ENCODER", "REGION_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
        if name in variables:
            monkeypatch.setenv(name, variables[name])
    given = dict(pairwise(flags_of(str(RECIPES / "stage1.sh"))))
    assert (given["--region_encoder"], given["--region_weights"]) == (encoder, weights)


@pytest.mark.parametrize("name", ["stage2.sh", "stage2_lora.sh", "lion_stage2.sh", "lion_stage3.sh"])
def test_an_encoder_that_is_asked_for_is_compared_with_what_a_stage_goes_on_from(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGION_ENCODER", raising=False)
    assert "--region_encoder" not in flags_of(str(RECIPES / name))
    monkeypatch.setenv("REGION_ENCODER", "osprey")
    assert dict(pairwise(flags_of(str(RECIPES / name))))["--region_encoder"] == "osprey"


@pytest.mark.parametrize("name", ["stage2.sh", "stage2_lora.sh", "lion_stage2.sh", "lion_stage3.sh"])
def test_a_later_stage_starts_without_the_one_before_where_that_is_taken_away(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty word is what the error about a missing stage says to give; weights go with the encoder."""
    stage = "STAGE2" if name == "lion_stage3.sh" else "STAGE1"
    for variable in ("STAGE1", "STAGE2", "REGION_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    given = dict(pairwise(flags_of(str(RECIPES / name))))
    assert given["--region_modules"].startswith("checkpoints/")
    assert "--region_weights" not in given
    monkeypatch.setenv(stage, "")
    monkeypatch.setenv("REGION_WEIGHTS", "a b.pth")
    given = dict(pairwise(flags_of(str(RECIPES / name))))
    assert (given["--region_modules"], given["--region_weights"]) == ("", "a b.pth")


@pytest.mark.parametrize("name", ["zero2.json", "zero3.json", "zero3_offload.json"])
def test_deepspeed_configs_are_json_without_an_optimizer(name: str) -> None:
    config = json.loads((RECIPES / name).read_text())
    assert "optimizer" not in config  # LLaVATrainer makes it; a second one here would take its place
    assert config["zero_optimization"]["stage"] == int(name[4])


def deepspeed(*flags: str) -> list[str]:
    """The launcher on a port of its own: its default is one port for every run of a machine."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return [str(BIN / "deepspeed"), "--master_port", str(one.getsockname()[1]), *flags]


@pytest.fixture(scope="module")
def world(llava_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment that a recipe reads its paths from, on eight records with a region each."""
    folder = tmp_path_factory.mktemp("world")
    data = write_training_data(folder)  # several sizes, so that ranks make different numbers of tower passes
    tower = pvit_ext.build_region_encoder(pvit_ext.RegionConfig(encoder_options=TINY_REGIONCLIP))
    torch.save(tower.state_dict(), folder / "regionclip.pth")
    paths = {
        "MODEL": llava_checkpoint,
        "DATA": data,
        "IMAGES": folder,
        "REGION_WEIGHTS": folder / "regionclip.pth",
    }
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    own = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    return {**clean, **own, **{key: str(value) for key, value in paths.items()}}


def launch(world: dict[str, str], command: list[str], *flags: str, **variables: object) -> str:
    """Run and return what was printed; small batches, since the recipes are made for eight GPUs."""
    small = ["--per_device_train_batch_size", "4", "--num_train_epochs", "1", "--dataloader_num_workers", "1"]
    environment = world | {key: str(value) for key, value in variables.items()}
    done = subprocess.run([*command, *small, *flags], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_both_stages_by_the_launcher_and_by_bash(world: dict[str, str], tmp_path: Path) -> None:
    options = ["--region_encoder_options", json.dumps(TINY_REGIONCLIP)]
    stage1 = tmp_path / "stage1"
    printed = launch(
        world, [*deepspeed(str(RECIPES / "stage1.sh"), *options), "--learning_rate", "1e-3"], OUTPUT=stage1
    )
    assert re.search(r"'learning_rate': '?0\.001\b", printed)  # the override, not the recipe's 2e-3
    assert (stage1 / "region_modules.safetensors").is_file()

    launch(world, ["bash", str(RECIPES / "stage1.sh"), *options, "--bf16", "False"], OUTPUT=tmp_path / "bash")
    assert (tmp_path / "bash" / "region_modules.safetensors").is_file()

    launch(world, deepspeed(str(RECIPES / "stage2.sh")), OUTPUT=tmp_path / "stage2", STAGE1=stage1)
    saved = load_file(tmp_path / "stage2" / "model.safetensors")
    assert all(value.numel() > 0 for value in saved.values())  # ZeRO-3 leaves empty tensors where nothing gathers
    assert "model.region_projector.box_embedding.weight" in saved
    assert (tmp_path / "stage2" / "tokenizer.model").is_file()


@pytest.mark.slow
def test_lora_recipe_under_zero3_and_bf16(world: dict[str, str], tmp_path: Path) -> None:
    options = ["--region_encoder_options", json.dumps(TINY_REGIONCLIP)]
    launch(world, deepspeed(str(RECIPES / "stage1.sh"), *options), OUTPUT=tmp_path / "stage1")
    launch(
        world,
        deepspeed(str(RECIPES / "stage2_lora.sh")),
        OUTPUT=tmp_path / "lora",
        STAGE1=tmp_path / "stage1",
    )
    _, model, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / "lora"), device="cpu")
    base = load_file(Path(world["MODEL"]) / "model.safetensors")
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, base["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.slow
def test_a_pretrained_mm_projector_arrives_in_a_llava_that_zero3_has_partitioned(
    world: dict[str, str], tmp_path: Path
) -> None:
    """Learning rate 0: what is exported is what was loaded."""
    base = load_file(Path(world["MODEL"]) / "model.safetensors")
    torch.manual_seed(3)
    adapter = {key: torch.randn_like(value) for key, value in base.items() if ".mm_projector." in key}
    assert len(adapter) == 4
    torch.save(adapter, tmp_path / "mm_projector.bin")
    options = ["--stage", "finetune", "--region_encoder_options", json.dumps(TINY_REGIONCLIP), "--learning_rate", "0"]
    options += ["--deepspeed", str(RECIPES / "zero3.json"), "--pretrain_mm_mlp_adapter", tmp_path / "mm_projector.bin"]
    command = deepspeed("--num_gpus", "2", str(RECIPES / "stage1.sh"))
    flags = [*map(str, options), "--bf16", "False", "--per_device_train_batch_size", "2"]
    launch(world | {"OMP_NUM_THREADS": "1"}, command, *flags, OUTPUT=tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(saved[key], value) for key, value in adapter.items())
    apart = (".mm_projector.", ".vision_tower.", ".region_")
    others = {key for key in base if not any(part in key for part in apart)}
    assert len(others) > 15
    assert all(torch.equal(saved[key], base[key]) for key in others)


@pytest.mark.slow
def test_a_llava_that_holds_its_vision_tower_keeps_it_under_zero3(world: dict[str, str], tmp_path: Path) -> None:
    """LLaVA-1.6: it reads the tower's own file while it makes the partitioned model, and then the checkpoint."""
    model = unfreeze_tower(Path(world["MODEL"]), tmp_path / "llava-own")
    options = ["--stage", "finetune", "--region_encoder_options", json.dumps(TINY_REGIONCLIP), "--learning_rate", "0"]
    options += ["--deepspeed", str(RECIPES / "zero3.json"), "--per_device_train_batch_size", "2"]
    command = deepspeed("--num_gpus", "2", str(RECIPES / "stage1.sh"))
    launch(world | {"OMP_NUM_THREADS": "1"}, command, *options, "--bf16", "False", MODEL=model, OUTPUT=tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "out"))
    assert before.keys() <= after.keys()
    for key, value in before.items():  # not rounded to float16 here, as LLaVA does with a tower that is whole
        assert torch.equal(after[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero", "encoder"),
    [
        ("zero2.json", "regionclip"),
        ("zero3.json", "regionclip"),
        ("zero3.json", "focal"),
        ("zero3.json", "gpt4roi"),
        ("zero3.json", "ferret"),
    ],
)
def test_two_ranks_with_unequal_batches_do_not_hang(
    world: dict[str, str], tmp_path: Path, zero: str, encoder: str
) -> None:
    """Images of several sizes, and samples without a region or an image: ranks see different numbers of each.

    Encoders that train get tiles of several layouts, and different numbers of regions.
    """
    records, folder = json.loads(Path(world["DATA"]).read_text()), tmp_path / "images"
    folder.mkdir()
    for number, record in enumerate(records):
        size = ((90, 60), (40, 90), (140, 44))[number % 3] if encoder in ENCODERS_THAT_TRAIN else (90, 60 + number)
        Image.effect_noise(size, 90).convert("RGB").save(folder / record["image"])
        if number % 4 == 2:
            record["regions"] *= 2
            record["conversations"][0]["value"] += " And in <region>?"
    for record in records[1::4]:
        record["conversations"][0]["value"] = "What is this?"
        del record["regions"], record["image"]
    data = tmp_path / "mixed.json"
    data.write_text(json.dumps(records))
    command = deepspeed("--num_gpus", "2", str(RECIPES / "stage1.sh"))
    own = ENCODERS_THAT_TRAIN.get(encoder, TINY_REGIONCLIP)
    options = ["--region_encoder", encoder, "--region_encoder_options", json.dumps(own), "--region_cross_layers", "1"]
    options += ["--deepspeed", str(RECIPES / zero)]
    if encoder in ENCODERS_THAT_TRAIN:
        pinpoints = "[[28, 56], [56, 28], [56, 56], [84, 28]]"
        options += ["--image_aspect_ratio", "anyres", "--mm_patch_merge_type", "spatial", "--image_grid_pinpoints"]
        options.append(pinpoints)
    batch = ["--per_device_train_batch_size", "2", "--num_train_epochs", "2"]
    small = world | {"OMP_NUM_THREADS": "1"}
    small |= {"REGION_WEIGHTS": ""} if encoder != "regionclip" else {}
    launch(small, [*command, *options], *batch, DATA=data, IMAGES=folder, OUTPUT=tmp_path / "out")
    saved = load_file(tmp_path / "out" / "region_modules.safetensors")
    width = {"regionclip": 24, "focal": 128}.get(encoder, 32)
    assert saved["region_projector.features.weight"].shape == (48, width)
    assert all(value.numel() for value in saved.values())
    assert saved["region_projector.cross_layers.blocks.0.gates.weight"].all()


def three_stages(world: dict[str, str], out: Path, ranks: int, zero: str) -> dict[str, torch.Tensor]:
    """LION's recipes one after the other; the tensors of the last one's result."""
    options = ["--deepspeed", str(RECIPES / zero), "--per_device_train_batch_size", str(4 // ranks), "--bf16", "False"]
    encoder = ["--region_encoder_options", json.dumps(TINY_REGIONCLIP), "--region_lion_adapters", "4"]
    for number, recipe in enumerate(LION, start=1):
        command = [*deepspeed("--num_gpus", str(ranks), str(RECIPES / recipe)), *(encoder if number == 1 else [])]
        paths = {"OUTPUT": out / f"{number}", f"STAGE{number - 1}": out / f"{number - 1}"}
        printed = launch(world, command, *options, "--num_train_epochs", "2", "--learning_rate", "1e-2", **paths)
        assert re.search(rf"LION adapters: gates .*{'trained' if number == 3 else 'frozen'}", printed)
    return load_file(out / "3" / "region_modules.safetensors")


@pytest.mark.slow
def test_lions_stages_on_one_rank_and_on_two(world: dict[str, str], tmp_path: Path) -> None:
    """The same results, with samples of both tasks on each rank, or of one task on each."""
    records = json.loads(Path(world["DATA"]).read_text())
    for record in records[1::2]:
        record["conversations"][0]["value"] = "<image>\nWhat is this?"
        del record["regions"]
    records[3]["lion_task"] = "region"
    data = tmp_path / "mixed.json"
    data.write_text(json.dumps(records))
    own = world | {"DATA": str(data), "REGION_ENCODER": "regionclip", "OMP_NUM_THREADS": "1"}
    alone = three_stages(own, tmp_path / "alone", 1, "zero2.json")
    moved = [name for name in alone if name.endswith(("up.weight", "scale.weight"))]
    assert len(moved) == 2 * 2 * 2
    assert all(bool((alone[name] != float("scale" in name)).any()) for name in moved)
    for ranks, zero in ((2, "zero2.json"), (2, "zero3.json")):
        found = three_stages(own, tmp_path / f"{ranks}-{zero}", ranks, zero)
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            # Adam's steps are as large as the rate, 1e-2, also where a gradient is hardly more than rounding.
            difference = (found[name] - value).abs().flatten()
            assert difference.quantile(0.95) < 1e-3, (zero, name)
            assert difference.max() < 1e-2, (zero, name)
    _, model, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / "alone" / "3"), device="cpu")
    assert model.region_config.lion_adapters == 4
