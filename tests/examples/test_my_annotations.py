"""From annotations to a trained model: the walk-through as users run it, scaled down, and its tiny models."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from examples.my_annotations import tiny_model
from pvit_ext.data.records import load_records
from tests.data.show.samples import record, write

SCRIPT = Path(tiny_model.__file__).with_name("run.sh")
PHOTOGRAPHS = os.environ.get("PVIT_EXT_DATA")


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script with nothing set but what a user has."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PVIT_EXT_DATA", "MODEL", "RANK")}
    environment = kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"} | variables
    command = ["bash", str(SCRIPT), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)


def test_the_script_says_what_it_needs(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "give --data DIR, or set PVIT_EXT_DATA" in done.stderr
    missing = run("--data", str(tmp_path), SOURCE="nowhere.json", FORMAT="coco")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "no 'nowhere.json': SOURCE=... names the annotations" in missing.stderr
    assert run("--data").returncode == run("--nothing").returncode == 2
    assert "run.sh --data DIR [--out DIR]" in run("--nothing").stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("region", [[1, 2, 3, 4], {"polygon": [[[1, 2], [9, 2], [5, 8]]]}])
def test_a_real_model_is_trained_with_the_recipes_own_settings(tmp_path: Path, region: Any) -> None:
    stubs, data, parts = tmp_path / "bin", tmp_path / "data", tmp_path / "out" / "parts"
    for folder in (stubs, data, parts):
        folder.mkdir(parents=True)
    for name in ("pvit-ext", "deepspeed"):
        (stubs / name).write_text(
            f'#!/bin/sh\necho "{name} $* | $MODEL $REGION_WEIGHTS $STAGE1 $DATA $IMAGES $OUTPUT"\n'
            'for last; do :; done; case $last in *answer.jsonl) echo "an answer" >"$last" ;; esac\n'
        )
        (stubs / name).chmod(0o755)
    source = data / "data.yaml" if isinstance(region, list) else tmp_path / "instances.json"
    source.write_text("")
    format = {} if isinstance(region, list) else {"FORMAT": "coco", "SOURCE": str(source)}
    (parts / "train.jsonl").write_text("")
    turns = [{"value": "<image> What is <region>?"}, {"value": "a fish"}]
    (parts / "val.jsonl").write_text(
        json.dumps({"id": "7", "image": "a b.jpg", "regions": [region, [5, 6, 7, 8]], "conversations": turns})
    )
    path = os.pathsep.join([str(stubs), str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"PATH": path, "MODEL": "big", "REGION_WEIGHTS": "tower.pth", **format}
    done = run("--data", str(data), "--out", str(parts.parent), **variables)
    assert done.returncode == 0, done.stderr
    said = done.stdout.replace(str(parts.parent), "OUT").replace(str(data), "DATA")
    one, two = (line for line in said.splitlines() if line.startswith("deepspeed"))
    assert one.partition("recipes/")[2] == "stage1.sh | big tower.pth  OUT/parts/train.jsonl DATA OUT/stage1"
    assert (
        two.partition("recipes/")[2]
        == "stage2_lora.sh | big tower.pth OUT/stage1 OUT/parts/train.jsonl DATA OUT/stage2"
    )
    assert f"pvit-ext data convert {format.get('FORMAT', 'yolo')} {str(source).replace(str(data), 'DATA')} " in said
    assert "ask --model OUT/stage2 --file OUT/question.jsonl --image-folder DATA --out OUT/answer.jsonl" in said
    assert "an answer" in said
    question = json.loads((parts.parent / "question.jsonl").read_text())
    assert question["id"] == "7, region 0, annotated as a fish"
    assert (question["image"], question["regions"]) == ("a b.jpg", [region])
    again = run("--data", os.path.relpath(data), "--out", str(parts.parent), **variables)
    assert again.returncode == 0, again.stderr
    other = run("--data", str(data), "--out", str(parts.parent), **{**variables, "FORMAT": "voc"})
    assert (other.returncode, other.stdout) == (2, "")  # its parts would be those of the first
    assert f"made of {format.get('FORMAT', 'yolo')} {source}: give another --out" in other.stderr


def test_a_window_holds_its_box() -> None:
    pixels, rng = torch.arange(3 * 416 * 300).view(3, 416, 300), random.Random(0)
    for box in ([0, 0, 9, 9], [280.5, 390.5, 300, 416], [100.2, 50.7, 140.1, 120.9], [0, 0, 300, 416]):
        for _ in range(20):
            window, inside = tiny_model._window(pixels, torch.tensor(box, dtype=torch.float), rng)
            assert window.shape == (3, tiny_model.WINDOW, tiny_model.WINDOW)
            x, y = int(window[0, 0, 0]) % 300, int(window[0, 0, 0]) // 300
            if box != [0, 0, 300, 416]:
                assert torch.allclose(inside + torch.tensor([x, y, x, y]), torch.tensor(box, dtype=torch.float))


def test_turns_are_questions_without_the_images_placeholder(tmp_path: Path) -> None:
    file = write(tmp_path, [record("a", "<image>\nWhat is <region>?", "a fish", regions=[[0, 0, 9, 9]])])
    (one,) = load_records(file, tmp_path / "images")
    assert tiny_model.turns_of(one) == [("What is <region>?", "a fish")]


def test_the_region_towers_norms_move_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that counts as frozen stays in eval mode; in that mode the tower hardly learned."""
    file = write(tmp_path, [record("a", "<image>\nWhat is <region>?", "a fish", regions=[[0, 0, 9, 9]])])
    monkeypatch.setattr(tiny_model, "fit_tower", lambda _ps, step, batches, *_: [float(step(next(batches))[0])])
    tiny_model.train_region_tower(tmp_path / "tower.pth", load_records(file, tmp_path / "images"), steps=1, batch=2)
    state = torch.load(tmp_path / "tower.pth")["model"]
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert means
    assert all(float(value.abs().max()) > 0 for value in means)


def some_of(folder: Path, out: Path, count: int) -> Path:
    """The first photographs of each split, with all their copies, as the data set lies on a user's disk."""
    for split in ("train", "valid"):
        images = sorted((folder / split / "images").iterdir())
        names = sorted({image.name.split("_jpg.rf")[0] for image in images})[:count]
        for image in images:
            if image.name.split("_jpg.rf")[0] in names:
                label = folder / split / "labels" / f"{image.stem}.txt"
                for file in (image, label):
                    place = out / file.relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.symlink_to(file)
    (out / "data.yaml").symlink_to(folder / "data.yaml")
    return out


@pytest.mark.slow
@pytest.mark.skipif(PHOTOGRAPHS is None, reason="PVIT_EXT_DATA names no folder with chess/")
def test_the_way_from_annotations_to_answers(tmp_path: Path) -> None:
    data, out = some_of(Path(str(PHOTOGRAPHS), "chess").resolve(), tmp_path / "chess", 12), tmp_path / "run"
    done = run("--data", str(data), "--out", str(out), SCALE="0.02")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = {name: load_records(out / "parts" / f"{name}.jsonl", data) for name in ("train", "val")}
    train, val = ({str(one.data["image"]).split("_jpg.rf")[0] for one in part} for part in parts.values())
    assert not train & val
    assert len(train | val) == 24
    assert (out / "show" / "index.html").stat().st_size > 1e6
    assert (out / "stage1" / "region_modules.safetensors").is_file()
    adapters = load_file(out / "stage2" / "adapter_model.safetensors")
    assert any(float(value.abs().max()) > 0 for name, value in adapters.items() if "lora_B" in name)
    answer = json.loads((out / "answer.jsonl").read_text().splitlines()[-1])
    assert "region 0, annotated as " in answer["id"]
    assert "answer" in answer  # its text is empty after so few steps
    measured = json.loads((out / "eval" / "metrics.json").read_text())
    assert measured["samples"] == sum(len(one.regions) for one in parts["val"])
