"""`pvit-ext swap`: what it writes is what attach() makes, and everything else is what was there, bit for bit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import cli
from pvit_ext.tools.shards import open_checkpoint
from tests.checkpoints import OPTIONS, config, inputs, load, logits, randomize, relayout, save
from tests.tiny import build_llava
from tests.tools.swapping import NARROWER, refused, swap


@pytest.fixture(scope="module")
def with_regions(llava_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a tiny RegionCLIP inside."""
    torch.manual_seed(1)
    model = randomize(load(llava_checkpoint, region_config=config()))
    return save(model, tmp_path_factory.mktemp("regions") / "saved")


def attached(source: Path, values: Any) -> Any:
    model = load(source)
    torch.manual_seed(3)
    return pvit_ext.attach(model, config(**values), str(source))


def without_regions(model: Any) -> Tensor:
    """Logits of LLaVA's own path."""
    arguments = {key: value for key, value in inputs().items() if "region" not in key}
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        return model(**{**arguments, "input_ids": torch.tensor([[1, 5, -200, 9, 30]])}).logits


def assert_same_as_attach(source: Path, out: Path, values: Any) -> None:
    model, expected = load(out), attached(source, values)
    assert model.region_config == expected.region_config
    state, wanted = model.region_module.tensors(), expected.region_module.tensors()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())
    assert torch.equal(logits(model), logits(expected))


def assert_rest_is_untouched(source: Path, out: Path) -> None:
    """Every tensor beside the region modules, bit for bit, and an index that says where they are."""
    old, new = (dict(c.read(c.tensors)) for c in map(open_checkpoint, (source, out)))
    rest = {key for key in old if ".region_" not in key}
    assert rest == {key for key in new if ".region_" not in key}
    for key in rest:
        assert old[key].dtype == new[key].dtype
        assert torch.equal(old[key], new[key])
    (index,) = out.glob("*.index.json")
    content = json.loads(index.read_text())
    assert content["weight_map"].keys() == new.keys()
    assert content["metadata"]["total_size"] == sum(value.numel() * value.element_size() for value in new.values())


@pytest.mark.parametrize(
    ("family", "suffix", "count"),
    [("llama", ".safetensors", 1), ("llama", ".bin", 1), ("mistral", ".safetensors", 2), ("mpt", ".bin", 2)],
)
def test_stock_checkpoint(llava_checkpoint: Path, family: str, suffix: str, count: int, tmp_path: Path) -> None:
    base = llava_checkpoint if family == "llama" else build_llava(tmp_path / family, family)
    source = relayout(base, tmp_path / "source", suffix, count)
    out = swap(source, {"projector": "mlp2x_gelu"}, tmp_path / "out")
    assert_rest_is_untouched(source, out)
    assert_same_as_attach(source, out, {"projector": "mlp2x_gelu"})
    assert torch.equal(without_regions(load(out)), without_regions(load(source)))
    for shard in open_checkpoint(source).shards:
        (same,) = [path for path in out.iterdir() if path.read_bytes() == shard.path.read_bytes()]
        assert same.suffix == suffix


@pytest.mark.parametrize(
    ("suffix", "count", "values"),
    [
        (".safetensors", 3, {}),
        (".bin", 3, {"delimiters": False, "projector": "mlp2x_gelu"}),
        (".safetensors", 1, NARROWER),
        (".bin", 1, NARROWER),
    ],
)
def test_region_checkpoint(with_regions: Path, suffix: str, count: int, values: Any, tmp_path: Path) -> None:
    source = relayout(with_regions, tmp_path / "source", suffix, count)
    out = swap(source, values, tmp_path / "out")
    assert_rest_is_untouched(source, out)
    assert_same_as_attach(source, out, values)


def test_what_is_kept_is_said(with_regions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pvit_ext")
    swap(with_regions, NARROWER, tmp_path / "out")
    assert "delimiters is kept" in caplog.text
    assert "features starts anew, the old one {'weight': (48, 24)" in caplog.text
    assert "tensors copied, the sha256 of each compared" in caplog.text


@pytest.mark.parametrize(
    ("values", "said", "untrained"),
    [
        (
            {"encoder": "osprey", "encoder_options": {}, "projector": "mlp2x_gelu"},
            r"'osprey' starts anew: its [\d,]+ p",
            True,
        ),
        (NARROWER, "is frozen and has no weights file", True),
        ({"delimiters": False}, "'regionclip' is kept", False),
        ({"projector": "mlp2x_gelu"}, "features starts anew", True),
        ({"encoder": "text", "encoder_options": {}, "box_embedding": False}, "'text' starts anew", False),
    ],
)
def test_what_must_be_trained_is_said_last(
    with_regions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, values: Any, said: str, untrained: bool
) -> None:
    caplog.set_level("INFO", "pvit_ext")
    swap(with_regions, values, tmp_path / "out")
    assert re.search(said, caplog.text)
    assert caplog.messages[-1].startswith("untrained: train stage 1, then 2, before you ask") == untrained


def test_a_taken_folder_is_refused_before_a_word(
    with_regions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pvit_ext")
    with refused(tmp_path, FileExistsError, "is not an empty folder"):
        swap(with_regions, NARROWER, with_regions)
    assert not caplog.messages


def test_swapped_twice(with_regions: Path, tmp_path: Path) -> None:
    """The shard of the first swap holds nothing else, and goes."""
    once = swap(with_regions, NARROWER, tmp_path / "once")
    twice = swap(once, {"projector": "mlp2x_gelu"}, tmp_path / "twice")
    assert_same_as_attach(once, twice, {"projector": "mlp2x_gelu"})
    assert sorted(path.name for path in once.iterdir()) == sorted(path.name for path in twice.iterdir())


@pytest.mark.parametrize("values", [{"encoder": "text", "box_embedding": False}, {"encoder": "cross_attention"}])
def test_encoder_without_or_with_tensors_of_its_own(with_regions: Path, tmp_path: Path, values: Any) -> None:
    values = {**values, "encoder_options": {}}
    out = swap(with_regions, values, tmp_path / "out")
    assert_rest_is_untouched(with_regions, out)
    model, expected = load(out), attached(with_regions, values)
    state, wanted = model.region_module.tensors(), expected.region_module.tensors()
    assert (out / "model-regions.safetensors").is_file() == bool(wanted)
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())


def test_half_precision(llava_checkpoint: Path, tmp_path: Path) -> None:
    source = relayout(llava_checkpoint, tmp_path / "source", ".safetensors", 2, torch.float16)
    out = swap(source, {}, tmp_path / "out")
    assert_same_as_attach(source, out, {})
    model, expected = load(out, dtype=torch.bfloat16), load(source, dtype=torch.bfloat16)
    torch.manual_seed(3)
    assert torch.equal(logits(model), logits(pvit_ext.attach(expected, config())))


def test_stock_llava_loads_the_result(llava_checkpoint: Path, tmp_path: Path) -> None:
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

    out = swap(llava_checkpoint, {}, tmp_path / "out")
    models = [LlavaLlamaForCausalLM.from_pretrained(str(path)).eval() for path in (llava_checkpoint, out)]
    for model in models:
        model.get_vision_tower().load_model()
    assert torch.equal(*(without_regions(model) for model in models))


def test_files_and_config(llava_checkpoint: Path, tmp_path: Path) -> None:
    source = relayout(llava_checkpoint, tmp_path / "source", ".safetensors", 2)
    (source / "pytorch_model.bin.index.json").write_text("another copy of the weights, not read")
    (source / "training_args.bin").write_text("kept")
    (source / "checkpoint-100").mkdir()
    out = swap(source, {}, tmp_path / "out")
    given = {path.name for path in source.iterdir()} - {"pytorch_model.bin.index.json", "checkpoint-100"}
    assert {path.name for path in out.iterdir()} == given | {"model-regions.safetensors"}
    assert (out / "training_args.bin").read_text() == "kept"
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, out))
    assert list(after) == [*before, "pvit_ext"]
    assert {key: after[key] for key in before} == before


def test_frozen_tower_is_named_and_checked(llava_checkpoint: Path, regionclip_weights: Path, tmp_path: Path) -> None:
    named = swap(llava_checkpoint, {"weights": str(regionclip_weights)}, tmp_path / "named")
    assert not [name for name in open_checkpoint(named).tensors if "region_encoder" in name]
    assert_same_as_attach(llava_checkpoint, named, {"weights": str(regionclip_weights)})
    again = {"weights": str(regionclip_weights), "delimiters": False}
    assert_same_as_attach(named, swap(named, again, tmp_path / "again"), again)
    other = tmp_path / regionclip_weights.name
    torch.save({key: value + 1 for key, value in torch.load(regionclip_weights)["model"].items()}, other)
    values = json.loads((named / "config.json").read_text())
    values["pvit_ext"]["weights"] = str(other)
    (named / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="sha256"):
        swap(named, {"weights": str(other)}, tmp_path / "changed")


def test_command_line_then_ask(with_regions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = json.dumps({**OPTIONS, "output_dim": 12})
    arguments = [
        str(with_regions),
        "--encoder",
        "regionclip",
        "--encoder-options",
        options,
        "--box-embedding",
    ]
    assert cli.main(["swap", *arguments, "--seed", "3", "--out", str(tmp_path / "out")]) == 0
    assert_same_as_attach(with_regions, tmp_path / "out", NARROWER)
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "image.png")
    capsys.readouterr()
    question = ["--box", "2", "3", "20", "25", "What is in <region>?", "--max-new-tokens", "4", "--device", "cpu"]
    assert cli.main(["ask", "--model", str(tmp_path / "out"), "--image", str(tmp_path / "image.png"), *question]) == 0
    assert capsys.readouterr().out.strip()


def test_released_checkpoint_that_says_llava(llava_checkpoint: Path, tmp_path: Path) -> None:
    source = relayout(llava_checkpoint, tmp_path / "source", ".safetensors", 1)
    content = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(content | {"model_type": "llava"}))
    out = swap(source, {}, tmp_path / "out")
    assert_same_as_attach(source, out, {})
    assert json.loads((out / "config.json").read_text())["model_type"] == "llava"


# Memory

_PEAK = """
import sys, torch
from pvit_ext import RegionConfig
from pvit_ext.tools.swap import swap_encoder
swap_encoder(sys.argv[1], RegionConfig(**eval(sys.argv[3])), sys.argv[2])
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024)
"""


def peak_memory(source: Path, out: Path) -> int:
    """Bytes; VmHWM starts anew with the process, which ru_maxrss does not."""
    values = repr(NARROWER)
    command = [sys.executable, "-c", _PEAK, str(source), str(out), values]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_memory_is_that_of_one_shard(with_regions: Path, tmp_path: Path, suffix: str) -> None:
    """Region tensors among others in each of six shards of 200 MB, so that each is rewritten."""
    size = 200 << 20
    small = relayout(with_regions, tmp_path / "small", suffix, 6)
    large = relayout(with_regions, tmp_path / "large", suffix, 6, filler=size)
    assert all(shard.path.stat().st_size > size for shard in open_checkpoint(large).shards)
    extra = peak_memory(large, tmp_path / "large-out") - peak_memory(small, tmp_path / "small-out")
    print(f"{suffix}: {extra / 2**20:.0f} MiB more for shards of {size / 2**20:.0f} MiB")
    assert extra < 1.5 * size
