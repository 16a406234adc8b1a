"""Arguments that cannot work end a run before anything is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

import pvit_ext
from pvit_ext.config import RegionConfig
from pvit_ext.data import scan
from pvit_ext.data.records import RecordError
from pvit_ext.hosts.llava import classes, compat
from pvit_ext.region_flags import options
from tests.samples import write_training_data
from tests.training.runs import flags, run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes.ByModelType, "from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))


def without_regions(data: Path) -> Path:
    lines = json.loads(data.read_text())
    for line in lines:
        del line["regions"]
        line["conversations"][0]["value"] = "<image>\nWhat is this?"
    path = data.with_name("plain.json")
    path.write_text(json.dumps(lines))
    return path


def test_align_without_any_region_ends_before_the_model_loads(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_model: None
) -> None:
    with pytest.raises(ValueError, match=r"plain\.json has no region \(8 records.*--stage align.*--stage finetune"):
        run(monkeypatch, flags(llava_checkpoint, without_regions(data), tmp_path, stage="align"))


def test_bad_records_end_a_run_before_the_model_loads(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_model: None
) -> None:
    path = data.with_name("bad.json")
    path.write_text(data.read_text().replace("in <region>", "here"))
    with pytest.raises(RecordError, match=r"bad\.json line 1"):
        run(monkeypatch, flags(llava_checkpoint, path, tmp_path, stage="finetune"))


@pytest.mark.parametrize("short", ["--model_name", "--region_module", "--vision_towe"])
def test_a_shortened_flag_is_refused(
    short: str, llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_model: None
) -> None:
    """argparse would take it, after what reads MODEL and the names of files had missed it."""
    words = [*flags(llava_checkpoint, data, tmp_path), short, str(llava_checkpoint)]
    with pytest.raises(ValueError, match=rf"unknown flag {short} \({short}"):
        run(monkeypatch, words)


def test_data_is_read_once(llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    reader = scan.read_json_records
    monkeypatch.setattr(scan, "read_json_records", lambda path: read.append(path) or reader(path))
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="align"))
    assert len(read) == 1


def test_unknown_template_is_refused_with_the_known_ones(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_model: None
) -> None:
    """LLaVA would train on vicuna_v1 and the checkpoint could not be asked."""
    with pytest.raises(ValueError, match=r"--version 'llava1\.5' is no conversation template; known: .*mpt.*v1"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path, version="llava1.5"))


@pytest.mark.parametrize("version", [None, "v0", "v0.5", "llava_v1"])
def test_a_checkpoint_names_the_template_it_was_trained_on(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    """LLaVA's train() leaves its default, v1, in place for v0, which is also what it takes without --version."""
    checkpoint = Path(shutil.copytree(llava_checkpoint, tmp_path / "tiny"))
    words = flags(checkpoint, data, tmp_path / "out", stage="align", version=version or "")
    if version is None:
        del words[words.index("--version") : words.index("--version") + 2]
    trainer = run(monkeypatch, words)
    system = trainer.train_dataset.tokenizer.decode(trainer.batch_of_all["input_ids"][0].clamp(min=0))
    named = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")[1].region_config.conv_version
    assert named == ("llava_v1" if version == "llava_v1" else "v1")
    from llava.conversation import conv_templates

    assert conv_templates[named].system[:40].replace(" ", "") in system.replace(" ", "")


def parse(words: list[str]) -> Any:
    compat.prepare_training()
    from pvit_ext.training.llava.arguments import RegionModelArguments

    return transformers.HfArgumentParser((RegionModelArguments,)).parse_args_into_dataclasses(words)[0]


def test_every_option_of_region_modules_is_a_flag_and_becomes_the_config() -> None:
    words = ["--region_encoder", "osprey", "--region_weights", "w.pth", "--region_embed_weights", "True"]
    words += ["--region_projector", "mlp2x_gelu", "--region_box_embedding", "True", "--region_cross_layers", "2"]
    words += ["--region_delimiters", "False", "--region_encoder_options", '{"a": 1}', "--version", "v1"]
    words += ["--region_lion_adapters", "8", "--region_lion_tasks", "region,image,box", "--region_lion_tags", "hint"]
    words += ["--region_lion_routing", "question"]
    words += ["--region_lion_aggregator", "added", "--region_lion_aggregator_depths", "1,0.5"]
    assert {f"--region_{option.name}" for option in options()} <= set(words)
    config = replace(parse(words).region_config(None), conv_version=None)
    assert config.weights is not None
    assert replace(config, weights="w.pth") == RegionConfig(
        "osprey", "w.pth", True, "mlp2x_gelu", True, 2, False, None, {"a": 1}, 8, "region,image,box", "hint",
        lion_routing="question", lion_aggregator="added", lion_aggregator_depths="1,0.5",
    )  # fmt: skip
    assert replace(parse(["--version", "v1"]).region_config(None), conv_version=None) == RegionConfig()


def test_a_stage_adds_a_box_embedding_and_takes_none_away() -> None:
    on, off = (parse(["--version", "v1", "--region_box_embedding", word]) for word in ("True", "False"))
    assert on.region_config(RegionConfig("osprey")).box_embedding
    assert not off.region_config(RegionConfig("osprey")).box_embedding
    assert parse(["--version", "v1"]).region_config(RegionConfig("osprey", box_embedding=True)).box_embedding
    with pytest.raises(ValueError, match=r"other region modules than the flags say: \{'box_embedding': False\}"):
        off.region_config(RegionConfig("osprey", box_embedding=True))


def test_a_flag_at_its_default_is_done_or_refused() -> None:
    """As in swap: nothing that is said is dropped."""
    before = RegionConfig(
        "osprey", "w.pth", True, "mlp2x_gelu", True, 2, False, "v1", {"a": 1}, 4, "a,b", "hint", "question", "added",
        "1,0.5",
    )  # fmt: skip
    said = {"encoder": "regionclip", "weights": "x.pth", "embed_weights": "False", "projector": "linear"}
    said |= {"box_embedding": "False", "cross_layers": "0", "delimiters": "True", "encoder_options": "{}"}
    said |= {"lion_adapters": "0", "lion_tasks": "region,image", "lion_tags": "plain", "lion_routing": "task"}
    said |= {"lion_aggregator": "appended", "lion_aggregator_depths": "0.95,0.74,0.49"}
    assert {option.name for option in options()} == set(said)
    for name, word in said.items():
        given = parse(["--version", "v1", f"--region_{name}", word])
        with pytest.raises(ValueError, match=f"other region modules than the flags say: {{'{name}'"):
            given.region_config(before)
        if name != "weights":
            assert getattr(given.region_config(None), name) is not None


def test_what_a_model_has_is_said_as_it_is_to_be_given() -> None:
    """A recipe's defaults are flags that nobody gave, and cannot be dropped: other values can be said."""
    given = parse(["--version", "v1", "--region_encoder", "regionclip", "--region_weights", "w.pth"])
    given.model_name_or_path = "swapped"
    said = (
        r"^swapped has other region modules than the flags say: .*; say what it has: --region_encoder osprey "
        r"--region_weights '' \(of a recipe REGION_ENCODER=osprey REGION_WEIGHTS=''\), or swap$"
    )
    with pytest.raises(ValueError, match=said):
        given.region_config(RegionConfig("osprey"))
    with pytest.raises(ValueError, match=r"has: --region_weights '/a b/x\.pth' \(of a recipe REGION_WEIGHTS='/a b/x"):
        given.region_config(RegionConfig(weights="/a b/x.pth"))
    options = parse(["--region_encoder_options", '{"arch": "rn50"}', "--region_delimiters", "False"])
    with pytest.raises(ValueError, match=r"""--region_encoder_options '\{"arch": "rn50x4"\}', or swap$"""):
        options.region_config(RegionConfig(encoder_options={"arch": "rn50x4"}, delimiters=False))
    with pytest.raises(ValueError, match="say what it has: no --region_encoder_options, or swap"):
        options.region_config(RegionConfig(delimiters=False))


def test_a_projector_that_does_not_exist_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--region_projector", "mlp"])
    assert "invalid choice: 'mlp'" in capsys.readouterr().err
