"""Words of the command line and of a YAML file, and what follows from the checkpoint that they name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvit_ext.data.cache.key import CacheError
from pvit_ext.training import cache_run
from pvit_ext.training.arguments import expand_command_line
from pvit_ext.training.llava.arguments import RegionDataArguments, RegionModelArguments
from pvit_ext.training.run import parse
from pvit_ext.training.start import resolve_model
from tests.tiny import TINY_REGIONCLIP
from tests.training.records import record
from tests.training.runs import LlavaHost, flags, run


def test_flags_that_contradict_the_checkpoint_are_refused(stage1: Path) -> None:
    options = json.dumps(TINY_REGIONCLIP)
    same = RegionModelArguments(region_modules=str(stage1), region_encoder="regionclip", region_encoder_options=options)
    assert same.region_config(None).encoder == "regionclip"
    other = RegionModelArguments(region_modules=str(stage1), region_encoder="osprey", region_delimiters=False)
    with pytest.raises(ValueError, match=r"osprey.*delimiters"):
        other.region_config(None)


def test_weights_that_a_stage_before_began_with_are_no_other(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipes name them in each stage; the file may be gone, since the modules hold what was in it."""
    folder = Path(shutil.copytree(stage1, tmp_path / "stage1"))
    written = json.loads((folder / "region_config.json").read_text())
    written["pvit_ext"]["weights"] = str(tmp_path / "a.pth")
    (folder / "region_config.json").write_text(json.dumps(written))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.pth").symlink_to(tmp_path / "a.pth")
    for same in ("a.pth", "link.pth", str(tmp_path / "a.pth")):
        flags_of = RegionModelArguments(region_modules=str(folder), region_weights=same)
        assert flags_of.region_config(None).weights == str(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"'weights': 'b\.pth'.*say what it has: .*REGION_WEIGHTS=\S*a\.pth"):
        RegionModelArguments(region_modules=str(folder), region_weights="b.pth").region_config(None)


def test_vision_tower_is_the_checkpoints_own_or_a_copy_of_it(
    llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tower = str(llava_checkpoint), llava_checkpoint / "tower"
    assert RegionModelArguments(model_name_or_path=model).vision_tower == str(tower)
    copy = str(shutil.copytree(tower, tmp_path / "copy"))
    assert RegionModelArguments(model_name_or_path=model, vision_tower=copy).vision_tower == copy
    monkeypatch.chdir(llava_checkpoint)
    assert RegionModelArguments(model_name_or_path=model, vision_tower="tower").vision_tower == "tower"


@pytest.mark.parametrize("other", ["/no/such-tower", "openai/clip-vit-large-patch14", "weights", "processor"])
def test_another_vision_tower_than_the_checkpoints_is_refused(
    llava_checkpoint: Path, tmp_path: Path, other: str
) -> None:
    """LLaVA would name it in config.json and train with the checkpoint's own."""
    if other in ("weights", "processor"):
        copy = Path(shutil.copytree(llava_checkpoint / "tower", tmp_path / other))
        if other == "weights":
            path = copy / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
        else:
            path = copy / "preprocessor_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0, 0, 0]}))
        other = str(copy)
    with pytest.raises(
        ValueError, match=rf"--vision_tower {other}, but the checkpoint has .*tower.*leave the flag out"
    ):
        RegionModelArguments(model_name_or_path=str(llava_checkpoint), vision_tower=other)


def test_a_language_model_takes_any_vision_tower(llava_checkpoint: Path, tmp_path: Path) -> None:
    bare = str(bare_language_model(llava_checkpoint, tmp_path))
    assert RegionModelArguments(model_name_or_path=bare, vision_tower="x").vision_tower == "x"


def test_a_llava_is_stored_as_it_runs_whatever_llavas_defaults_are(llava_checkpoint: Path, tmp_path: Path) -> None:
    own = RegionModelArguments(model_name_or_path=str(llava_checkpoint))
    assert (own.mm_projector_type, own.mm_vision_select_layer, own.mm_vision_select_feature) == (
        "mlp2x_gelu",
        -2,
        "patch",
    )
    new = RegionModelArguments(model_name_or_path=str(bare_language_model(llava_checkpoint, tmp_path)))
    assert (new.mm_projector_type, new.mm_vision_select_layer, new.mm_use_im_patch_token) == ("linear", -1, True)


@pytest.mark.parametrize(
    ("flag", "other", "own"), [("mm_projector_type", "linear", "mlp2x_gelu"), ("mm_vision_select_layer", -1, -2)]
)
def test_flags_that_a_llava_would_not_run_with_are_refused(
    llava_checkpoint: Path, flag: str, other: Any, own: Any
) -> None:
    assert RegionModelArguments(model_name_or_path=str(llava_checkpoint), **{flag: own})
    with pytest.raises(
        ValueError, match=rf"--{flag} {other}, but .*tiny is a LLaVA of {flag} {own}.*give --{flag} {own}"
    ):
        RegionModelArguments(model_name_or_path=str(llava_checkpoint), **{flag: other})


def bare_language_model(llava: Path, folder: Path) -> Path:
    values = json.loads((llava / "config.json").read_text())
    values = {key: value for key, value in values.items() if not key.startswith("mm_")} | {"model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_yaml_comes_before_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 0.1\nregion_weights: null\nregion_encoder_options: {width: 8}\n")
    words = expand_command_line(["--config", str(path), "--learning_rate", "0.2"])
    assert words == ["--learning_rate", "0.1", "--region_encoder_options", '{"width": 8}', "--learning_rate", "0.2"]


def test_yaml_named_with_an_equals_sign_or_twice(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 0.1\n")
    assert expand_command_line([f"--config={path}", "--seed", "2"]) == ["--learning_rate", "0.1", "--seed", "2"]
    with pytest.raises(ValueError, match="--config is given twice"):
        expand_command_line([f"--config={path}", "--config", str(path)])


def test_an_equals_sign_is_as_good_as_a_space(stage1: Path, llava_checkpoint: Path, tmp_path: Path) -> None:
    words = [f"--model_name_or_path={stage1}", f"--output_dir={tmp_path}", '--region_encoder_options={"a": "b=c"}']
    expanded = resolve_model(expand_command_line(words))
    assert expanded[:6] == ["--model_name_or_path", str(stage1), "--output_dir", str(tmp_path), *expanded[4:6]]
    assert expanded[4:6] == ["--region_encoder_options", '{"a": "b=c"}']
    assert expanded[6:] == ["--model_name_or_path", str(llava_checkpoint), "--region_modules", str(stage1)]


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


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ("on", "True"), ("Off", "False"), ("no", "no"), ("0x10", "16"), ("010", "010"), (".inf", "inf"),
        ("1_000", "1_000"), ("1e-3", "1e-3"), (".5", ".5"), ("'on'", "on"), ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"), ("[on, 0x2]", "True 2"),
    ],
)  # fmt: skip
def test_yaml_scalars_that_python_reads_otherwise(tmp_path: Path, written: str, word: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"flag: {written}\n")
    assert expand_command_line(["--config", str(path)]) == ["--flag", *word.split()]


def test_a_file_that_is_no_yaml_and_none_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("stage: [align\n")
    with pytest.raises(ValueError, match=r"--config .*run\.yaml is no YAML: while parsing"):
        expand_command_line(["--config", str(path)])
    with pytest.raises(ValueError, match="--config takes a YAML file"):
        expand_command_line(["--stage", "align", "--config"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_yaml_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run_name: région\n", encoding=encoding)
    assert expand_command_line(["--config", str(path)]) == ["--run_name", "région"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [("région: 1".encode("latin-1"), "is not UTF-8 text: .*; save it as UTF-8"),
     (b"seed: 1\nbf16: true\nseed: 2\n", "line 3: the key 'seed' is given twice"),
     (b"region_encoder_options: {width: 8, width: 9}", "line 1: the key 'width' is given twice")],
)  # fmt: skip
def test_yaml_that_would_lose_something(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"--config .*run\.yaml {said}"):
        expand_command_line(["--config", str(path)])


def test_unknown_stage_is_refused(llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="align, finetune"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="three"))


def test_files_and_folders_that_are_not_there_are_named_with_their_flag(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaHost, "load_model", lambda *_: pytest.fail("the model was loaded"))
    away, stock = tmp_path / "away", flags(llava_checkpoint, data, tmp_path / "out")
    wrong = {
        f"--data_path {away} is not there": ["--data_path", str(away)],
        f"--region_eval_data {away} is not there": ["--region_eval_data", str(away)],
        f"--region_modules {away} has no region_config.json: give the output": ["--region_modules", str(away)],
        f"--config {away} is not there": ["--config", str(away)],
    }
    for message, words in wrong.items():
        with pytest.raises(FileNotFoundError, match=f"^{message}"):
            run(monkeypatch, [*stock, *words])
    for name in ("image_folder", "model_name_or_path"):
        place = stock.index(f"--{name}")
        with pytest.raises(ValueError, match=f"^--{name} is missing: "):
            run(monkeypatch, stock[:place] + stock[place + 2 :])


def test_images_of_held_out_records_need_their_folder_too(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlavaHost, "load_model", lambda *_: pytest.fail("the model was loaded"))
    text = tmp_path / "text.json"
    text.write_text(json.dumps([record(0, "What is this?", (), image=False)]))
    words = flags(llava_checkpoint, text, tmp_path / "out", stage="finetune", region_eval_data=data)
    place = words.index("--image_folder")
    words = words[:place] + words[place + 2 :]
    with pytest.raises(ValueError, match=r"^--image_folder is missing: the folder of the 7 images that --region_eval"):
        run(monkeypatch, words)
    with pytest.raises(CacheError, match=r"--region_cache x: .*text\.json names no image, leave the flag out"):
        run(monkeypatch, [*words, "--region_eval_data", str(text), "--region_cache", "x"])
    cached = SimpleNamespace(args=parse(LlavaHost(), [*words, "--region_eval_data", str(text)]))
    monkeypatch.setattr(cache_run, "load_run", lambda _: cached)
    with pytest.raises(CacheError, match=r"--run: .*text\.json names no image, so there is nothing to store"):
        cache_run.jobs_of_run(tmp_path, words, "cpu", 1)


@pytest.mark.parametrize(
    ("given", "valid"), [("Pad", "square, pad, anyres"), ("anyres_max_9", "anyres"), ("", "square")]
)
def test_a_layout_of_images_that_llava_does_not_know_is_refused(given: str, valid: str) -> None:
    """It would take all it does not know for square, and config.json would say the other."""
    with pytest.raises(ValueError, match=rf"--image_aspect_ratio '{given}': LLaVA knows .*{valid}"):
        RegionDataArguments(image_aspect_ratio=given)
    with pytest.raises(ValueError, match="--region_jitter 2"):
        RegionDataArguments(image_aspect_ratio="pad", region_jitter=2.0)


@pytest.mark.parametrize("given", ["spatial_unpd", "Flat", "unpad"])
def test_a_merge_of_tiles_that_llava_does_not_know_is_refused(given: str, llava_checkpoint: Path) -> None:
    """It would take all that begin with spatial for that."""
    with pytest.raises(ValueError, match=rf"--mm_patch_merge_type '{given}': LLaVA knows flat, spatial, spatial_unpad"):
        RegionModelArguments(model_name_or_path=str(llava_checkpoint), mm_patch_merge_type=given)
    for known in ("flat", "spatial", "spatial_unpad", None):
        RegionModelArguments(model_name_or_path=str(llava_checkpoint), mm_patch_merge_type=known)


def test_pinpoints_of_images_without_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--image_grid_pinpoints .*: --image_aspect_ratio pad makes no tiles"):
        RegionDataArguments(image_aspect_ratio="pad", image_grid_pinpoints="[[336, 672]]")
    RegionDataArguments(image_aspect_ratio="anyres", image_grid_pinpoints="[[336, 672]]")
