"""The same training on one process, on two, in more steps, and under every way to shard: the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import pvit_ext
from examples.quickstart.arms import free_port
from pvit_ext.cli.parser import main
from pvit_ext.hosts.llava import compat
from tests.samples import write_training_data
from tests.tiny import TINY_REGIONCLIP

compat.prepare_training()

from pvit_ext.training.llava.arguments import RegionTrainingArguments  # noqa: E402

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="FSDP runs on CUDA")
def test_fsdp_that_would_shard_nothing_is_refused_before_it_is_in_the_environment(tmp_path: Path) -> None:
    before = dict(os.environ)
    with pytest.raises(ValueError, match="--fsdp shards nothing on a CPU"):
        RegionTrainingArguments(output_dir=str(tmp_path), fsdp="full_shard auto_wrap", report_to=[])
    assert dict(os.environ) == before


@pytest.fixture(scope="module")
def world(llava_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Recipe variables; every answer has the same length, since ranks average their means of tokens."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    tower = pvit_ext.build_region_encoder(pvit_ext.RegionConfig(encoder_options=TINY_REGIONCLIP))
    torch.save(tower.state_dict(), folder / "regionclip.pth")
    config = pvit_ext.RegionConfig(encoder_options=TINY_REGIONCLIP, weights=str(folder / "regionclip.pth"))
    model = pvit_ext.load_pretrained_model(str(llava_checkpoint), region_config=config, device="cpu")[1]
    pvit_ext.save_region_modules(model, folder / "stage1", base=str(llava_checkpoint))
    data = write_training_data(folder / "data")
    return {"MODEL": llava_checkpoint, "STAGE1": folder / "stage1", "DATA": data, "IMAGES": data.parent}


def stage2(start: list[str], world: dict[str, Any], output: Path, zero: str, *flags: Any, entry: str = "") -> None:
    """Run the recipe of stage 2 without jitter."""
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    own = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    own |= {"OUTPUT": str(output), "ENTRY": entry}
    environment = clean | own | {key: str(value) for key, value in world.items()}
    command = [
        *start, str(ROOT / "recipes" / "stage2.sh"), "--learning_rate", "1e-2",
        "--deepspeed", str(ROOT / "recipes" / zero), "--model_max_length", "512", "--bf16", "False", "--region_jitter",
        "0", "--save_strategy", "no", "--dataloader_num_workers", "0", *map(str, flags),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def losses(world: dict[str, Any], output: Path, gpus: int, zero: str, *flags: Any) -> list[float]:
    """Losses of six optimizer steps of stage 2 at a global batch of four, as the trainer logged them."""
    start = [str(BIN / "deepspeed"), "--num_gpus", str(gpus), "--master_port", str(free_port())]
    stage2(start, world, output, zero, *flags)
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_losses_do_not_depend_on_how_a_global_batch_is_spread(world: dict[str, Any], tmp_path: Path) -> None:
    batch, steps = "--per_device_train_batch_size", "--gradient_accumulation_steps"
    alone = losses(world, tmp_path / "alone", 1, "zero2.json", batch, 4)
    assert len(alone) == 6
    assert alone[-1] < alone[0] - 1
    spread = {
        "two processes": losses(world, tmp_path / "two", 2, "zero2.json", batch, 2),
        "accumulated": losses(world, tmp_path / "accumulated", 1, "zero2.json", batch, 2, steps, 2),
        "zero3, two processes": losses(world, tmp_path / "zero3", 2, "zero3.json", batch, 2),
        "zero3, offloaded": losses(world, tmp_path / "offload", 1, "zero3_offload.json", batch, 4),
    }
    for name, curve in spread.items():
        assert curve == pytest.approx(alone, abs=2e-3), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "own"),
    [
        ("gpt4roi", {"width": 32, "pool": 4, "rounds": 1}),
        # the mean: rounding may change which neighbour is the largest, and with it where the gradient goes
        ("ferret", {"points": 32, "groups": [8, 4], "neighbors": [4, 4], "pooler": "mean"}),
    ],
)
def test_an_encoder_that_trains_learns_the_same_where_ranks_see_other_sizes(
    world: dict[str, Any], tmp_path: Path, encoder: str, own: dict[str, Any]
) -> None:
    """Tiles of several layouts, and one region or two: ranks see different numbers of map sizes and of regions."""
    records = json.loads(world["DATA"].read_text())
    for record in records[::3]:
        record["regions"] *= 2
        record["conversations"][0]["value"] += " And in <region>?"
    (tmp_path / "data.json").write_text(json.dumps(records))
    for number in range(8):
        size = ((90, 60), (40, 90), (140, 44))[number % 3]
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{number}.png")
    flags = ["--region_modules", "", "--region_encoder", encoder, "--region_encoder_options", json.dumps(own)]
    flags += ["--image_aspect_ratio", "anyres", "--mm_patch_merge_type", "spatial"]
    flags += ["--image_grid_pinpoints", "[[28, 56], [56, 28], [56, 56], [84, 28]]"]
    # with a large epsilon Adam's step follows the gradient; else rounding errors of tiny gradients become whole steps
    flags += ["--stage", "align", "--adam_epsilon", "1e-3", "--per_device_train_batch_size"]
    tiles, trained = world | {"IMAGES": tmp_path, "DATA": tmp_path / "data.json"}, {}
    for name, gpus, zero, batch in (("start", 1, "zero2", 4), ("one", 1, "zero2", 4), ("two", 2, "zero3", 2)):
        rate = ["--learning_rate", "0"] if name == "start" else []
        losses(tiles, tmp_path / name, gpus, f"{zero}.json", *flags, batch, *rate)
        trained[name] = load_file(tmp_path / name / "region_modules.safetensors")
    for key, value in trained["one"].items():
        moved = (value - trained["start"][key]).abs().mean()
        assert moved > 1e-5, key
        assert (trained["two"][key] - value).abs().mean() < 0.02 * moved, key


@pytest.mark.slow
def test_a_rank_whose_batch_has_no_hint_waits_for_nobody(world: dict[str, Any], tmp_path: Path) -> None:
    records = json.loads(world["DATA"].read_text())
    for record in records[:2]:
        record["tags"] = ["dog", "car"]
    (tmp_path / "data.json").write_text(json.dumps(records))
    few = world | {"DATA": tmp_path / "data.json"}
    flags, batch = ("--region_lion_tags", "hint", "--tag_shuffle", True), "--per_device_train_batch_size"
    alone = losses(few, tmp_path / "alone", 1, "zero2.json", batch, 4, *flags)
    for zero in ("zero2.json", "zero3.json"):
        assert losses(few, tmp_path / zero, 2, zero, batch, 2, *flags) == pytest.approx(alone, abs=2e-3), zero


@pytest.mark.slow
def test_torchs_own_fsdp_gives_the_gradients_of_the_whole_model(llava_checkpoint: Path) -> None:
    """Below accelerate, which does not shard on a CPU."""
    pytest.importorskip("torch", minversion="2.6", reason="fully_shard is new there")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.fsdp_worker", str(llava_checkpoint)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "rank 0: 30 gradients" in done.stdout
    assert "rank 1: 30 gradients" in done.stdout


@pytest.mark.slow
def test_zero3_with_a_cache_of_region_features_where_a_rank_has_no_region(
    world: dict[str, Any], tmp_path: Path
) -> None:
    """No rank runs the tower; one that did would wait for the others."""
    turns = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "seven red"}]
    records = [one for record in json.loads(world["DATA"].read_text()) for one in (record, {"conversations": turns})]
    (tmp_path / "data.json").write_text(json.dumps(records))
    words = ["data", "cache", str(tmp_path / "data.json"), "--image-folder", str(world["IMAGES"]), "--dtype", "float32"]
    assert main([*words, "--region-modules", str(world["STAGE1"]), "--out", str(tmp_path / "cache")]) == 0
    mixed, flags = world | {"DATA": tmp_path / "data.json"}, ("--per_device_train_batch_size", 1)
    plain = losses(mixed, tmp_path / "plain", 2, "zero3.json", *flags)
    assert losses(mixed, tmp_path / "cached", 2, "zero3.json", *flags, "--region_cache", tmp_path / "cache") == plain


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2.json", "zero3.json"])
def test_deepspeed_with_a_cache_of_both_towers_by_the_recipe_itself(
    world: dict[str, Any], tmp_path: Path, zero: str
) -> None:
    """DeepSpeed changes dtypes in place of autocast; neither tower runs on any rank."""
    flags, cache = ("--per_device_train_batch_size", 2, "--bf16", True), tmp_path / "cache"
    stage2(["bash"], world, tmp_path / "x", zero, *flags, entry=f"{BIN}/pvit-ext data cache --out {cache} --run")
    assert {path.name for path in cache.iterdir()} == {"region_tower", "vision_tower"}
    plain = losses(world, tmp_path / "plain", 2, zero, *flags)
    assert losses(world, tmp_path / "cached", 2, zero, *flags, "--region_cache", cache) == plain
