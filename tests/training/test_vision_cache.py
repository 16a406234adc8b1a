"""Training with a cache of the model's vision tower has the losses of training without, on LLaVA's own model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pvit_ext.cli.parser import main
from pvit_ext.data.cache.key import CacheError
from pvit_ext.data.cache.plan import Plan
from pvit_ext.regions import image as decoding
from tests.checkpoints import OPTIONS
from tests.training import runs
from tests.training.region_caches import losses, write_data

TILES = "[[28, 56], [56, 28]]"
OSPREY = {"region_encoder": "osprey", "region_encoder_options": "{}"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def words(checkpoint: Path, data: Path, out: Path, **changed: Any) -> list[str]:
    values = {
        "stage": "align", "max_steps": 6, "per_device_train_batch_size": 2, "region_jitter": 0.2, "logging_steps": 1,
        "bf16": False,
    }  # fmt: skip
    return runs.flags(checkpoint, data, out, **(values | OSPREY | changed))


def fill(folder: Path, run: list[str]) -> Path:
    assert main(["data", "cache", "--out", str(folder), "--run", *run]) == 0
    return folder


def refuse_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(decoding, "_upright", fail)


@pytest.mark.parametrize(
    "changed",
    [
        {"bf16": True},
        *(pytest.param(one, marks=pytest.mark.slow) for one in ({}, {"region_encoder": "text", "stage": "finetune"})),
    ],
)
def test_the_losses_are_those_of_the_uncached_run(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    expected = losses(runs.run(monkeypatch, words(llava_checkpoint, data, tmp_path / "a", **changed)))
    cache = fill(tmp_path / "cache", words(llava_checkpoint, data, tmp_path / "c", **changed))
    refuse_decoding(monkeypatch)
    cached = words(llava_checkpoint, data, tmp_path / "b", region_cache=cache, **changed)
    assert losses(runs.run(monkeypatch, cached)) == expected
    assert len(set(expected)) > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {
            "image_aspect_ratio": "anyres",
            "image_grid_pinpoints": "[[28, 56], [56, 28]]",
            "mm_patch_merge_type": "spatial",
        },
        {"region_encoder": "cross_attention", "region_encoder_options": "{}"},
        {"region_encoder": "replay", "region_encoder_options": "{}"},
        {"region_encoder": "focal", "region_encoder_options": "{}"},
        {"region_encoder": "regionclip", "region_encoder_options": json.dumps(OPTIONS)},
        {"region_cross_layers": 1},
        {"stage": "finetune"},
        {"stage": "finetune", "lora_enable": True},
        {"dataloader_num_workers": 2, "per_device_train_batch_size": 1},
    ],
)
def test_so_they_are_with_tiles_and_other_encoders_and_stages(
    llava_checkpoint: Path, data: Path, regionclip_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
) -> None:  # fmt: skip
    if changed.get("region_encoder") == "regionclip":
        changed = changed | {"region_weights": regionclip_weights}
    expected = losses(runs.run(monkeypatch, words(llava_checkpoint, data, tmp_path / "a", **changed)))
    cache = fill(tmp_path / "cache", words(llava_checkpoint, data, tmp_path / "c", **changed))
    if changed.get("region_encoder") != "focal":  # it looks at the pixels
        refuse_decoding(monkeypatch)
    cached = words(llava_checkpoint, data, tmp_path / "b", region_cache=cache, **changed)
    assert losses(runs.run(monkeypatch, cached)) == expected


def test_a_cache_that_does_not_fit_ends_a_run_before_its_first_step(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = {"region_encoder_options": '{"layers": [-2]}'}
    cache = fill(tmp_path / "cache", words(llava_checkpoint, data, tmp_path / "c", **last))

    def start(**more: Any) -> None:
        runs.run(monkeypatch, words(llava_checkpoint, data, tmp_path / "out", region_cache=cache, **(last | more)))

    with pytest.raises(CacheError, match=r"another preprocessing: image_aspect_ratio was 'pad', is 'square'"):
        start(image_aspect_ratio="square")
    with pytest.raises(CacheError, match=r"has the vision tower's hidden layers \[.*\], this run reads \[0\]"):
        start(region_encoder_options='{"layers": [0]}')
    with pytest.raises(CacheError, match=r"'overlay' paints on the image"):
        start(region_encoder="overlay", region_encoder_options="{}", stage="finetune")
    with pytest.raises(CacheError, match=r"its maps are float32, the tower computes in bfloat16"):
        start(bf16=True)


def test_so_does_a_cache_of_another_tower_or_preprocessing(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fill(tmp_path / "cache", words(llava_checkpoint, data, tmp_path / "c"))
    other = tmp_path / "other"
    shutil.copytree(llava_checkpoint, other)
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**values, "mm_vision_tower": str(other / "tower")}))

    def refused() -> str:
        with pytest.raises(CacheError) as caught:
            runs.run(monkeypatch, words(other, data, tmp_path / "out", region_cache=cache))
        return str(caught.value)

    pixels, weights = other / "tower" / "preprocessor_config.json", other / "tower" / "model.safetensors"
    before = pixels.read_text()
    pixels.write_text(json.dumps({**json.loads(before), "image_mean": [0.1, 0.2, 0.3]}))
    assert "the same image gives other pixels here" in refused()
    pixels.write_text(before)
    state = load_file(weights)
    name = next(iter(state))
    save_file(state | {name: state[name] + 1}, weights, {"format": "pt"})
    assert "the tower has other weights" in refused()


def test_what_cannot_be_stored_is_said(llava_checkpoint: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    def refused(run: list[str], *more: str) -> str:
        assert main(["data", "cache", *more, "--out", str(tmp_path / "x"), "--run", *run]) == 2
        return str(capsys.readouterr().err)

    given = words(llava_checkpoint, data, tmp_path / "c")
    assert "'overlay' paints on the image" in refused([*given, "--region_encoder", "overlay", "--stage", "finetune"])
    assert "FILE, --dtype: --run takes this from the flags of the run" in refused(
        given, str(data), "--dtype", "bfloat16"
    )
    assert "the flags of the run are missing" in refused([])
    assert not (tmp_path / "x").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan.shards, "__defaults__", (8000,))
    given = words(llava_checkpoint, data, tmp_path / "c")
    one = fill(tmp_path / "one", given)
    assert main(["data", "cache", "--out", str(tmp_path / "two"), "--workers", "2", "--run", *given]) == 0
    assert len(contents(one)) > 4
    assert contents(one) == contents(tmp_path / "two")


def test_a_fill_goes_on_behind_the_tower_that_is_complete(
    llava_checkpoint: Path, data: Path, regionclip_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(
        llava_checkpoint, data, tmp_path / "c", region_encoder="regionclip",
        region_encoder_options=json.dumps(OPTIONS), region_weights=regionclip_weights,
    )  # fmt: skip
    expected = contents(fill(tmp_path / "whole", given))
    part = tmp_path / "cache.part"
    shutil.copytree(tmp_path / "whole", part)
    shutil.rmtree(part / "vision_tower")
    made = (part / "region_tower" / "maps-00000.bin").stat().st_mtime_ns
    again = fill(tmp_path / "cache", given)
    assert contents(again) == expected
    assert (again / "region_tower" / "maps-00000.bin").stat().st_mtime_ns == made
    again.rename(part)
    shutil.rmtree(part / "vision_tower")
    assert main(["data", "cache", "--out", str(tmp_path / "cache"), "--run", *given, "--bf16", "True"]) == 2
    assert "region_tower is half of another cache (its maps are float32" in capsys.readouterr().err
