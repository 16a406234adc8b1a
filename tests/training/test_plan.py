"""``pvit-ext plan``: the flags of a recipe by the recipe itself, and what it counts against what real runs hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

from pvit_ext.adapters.options import AdapterChoice
from pvit_ext.cli.parser import main
from pvit_ext.training.plan.memory import Tensors, count_memory
from pvit_ext.training.plan.optimizers import name_of, state_bytes
from pvit_ext.training.plan.outline import adapters_that_count
from pvit_ext.training.plan.plan import Question, make_plan
from pvit_ext.training.plan.recipe import flags_of
from pvit_ext.training.plan.sharding import Sharding
from pvit_ext.training.plan.steps import check_batch, count_steps
from tests.tiny import build_llava
from tests.training.held_memory import measure
from tests.training.runs import flags

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LORA = {"lora_enable": True, "lora_r": 4}
CLOSE = 0.1


def test_a_recipe_gives_the_flags_that_it_trains_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "two words.json")
    words = flags_of(str(ROOT / "recipes" / "stage2_lora.sh"), ["--per_device_train_batch_size", "3"])
    given = dict(pairwise(words))
    assert [given[name] for name in ("--stage", "--lora_r", "--data_path")] == ["finetune", "128", "two words.json"]
    assert given["--per_device_train_batch_size"] == "3"  # the last one counts
    assert Path(given["--deepspeed"]).samefile(ROOT / "recipes" / "zero3.json")


def test_a_script_that_would_train_is_not_run(tmp_path: Path) -> None:
    script = tmp_path / "own.sh"
    script.write_text(f"touch {tmp_path}/ran\nexec python -m pvit_ext.train --stage align\n")
    with pytest.raises(ValueError, match="does not hand its flags to ENTRY"):
        flags_of(str(script))
    assert not (tmp_path / "ran").exists()
    script.write_text("echo broken >&2; exit 3 # ${ENTRY:-}\n")
    with pytest.raises(ValueError, match=r"gave no flags \(exit status 3\): broken"):
        flags_of(str(script))
    with pytest.raises(FileNotFoundError, match="no such recipe"):
        flags_of(str(tmp_path / "stage9.sh"))


def training(**changed: Any) -> Any:
    values = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "dataloader_drop_last": False,
        "max_steps": -1, "num_train_epochs": 2, "optim": "adamw_torch", "optim_args": None, "bf16": True, "fp16": False,
    }  # fmt: skip
    return SimpleNamespace(**values | changed)


def test_a_batch_that_is_not_the_wanted_one_says_how_to_get_it() -> None:
    assert check_batch(training(), None, 4, 24) == 24
    with pytest.raises(ValueError, match="a batch of 24, --global-batch says 32: give --gradient_accumulation_steps 4"):
        check_batch(training(), None, 4, 32)
    with pytest.raises(ValueError, match="does not divide by 4 x 2"):
        check_batch(training(), None, 4, 20)
    with pytest.raises(ValueError, match="the DeepSpeed config's train_batch_size says 64"):
        check_batch(training(), {"train_batch_size": 64}, 4, None)
    with pytest.raises(ValueError, match="fill no batch of 4 GPUs x 2"):
        count_steps(training(dataloader_drop_last=True), 7, 4)


def test_an_optimizer_whose_memory_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="--optim galore_adamw: its memory is not known; known: adafactor"):
        name_of(training(optim="galore_adamw"), None)
    assert name_of(training(), {"optimizer": {"type": "AdamW"}}) == "adamw_torch"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("adagrad", torch.optim.Adagrad),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_optimizers_keep_what_is_counted(name: str, make: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(64, 48))
    weight.grad = torch.ones(64, 48)
    optimizer = make([weight], lr=0.1)
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    held = sum(value.numel() * value.element_size() for value in kept)
    assert held == pytest.approx(state_bytes(name, weight.shape, 4), abs=8)  # and the number of steps


def test_offloading_moves_states_to_the_machine() -> None:
    deepspeed = json.loads((ROOT / "recipes" / "zero3_offload.json").read_text())
    weights = Tensors((torch.empty(1000, 1000, device="meta"),), (), 0.0)
    sharding = Sharding.of(deepspeed, training(), 8, 4)
    memory = count_memory(weights, sharding, "adamw_torch")
    assert (memory.weights, memory.gradients, memory.optimizer) == (0, 0, 0)
    assert memory.host == 250_000 * (2 + 12 + 4)
    assert memory.gathered == 2_000_000


def test_the_command_counts_a_run_without_weights(
    llava_checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(_config_alone(llava_checkpoint, tmp_path), data, tmp_path / "out", num_train_epochs=3)
    assert main(["plan", "-", "--gpus", "2", "--samples-per-second", "4", "--gpu-memory", "1e-4", *words]) == 1
    out = capsys.readouterr().out
    assert "language model                        78,000          78,000  trained" in out
    assert "8 samples a step\n8 samples, 3 epochs: 3 steps" in out
    assert "does not fit" in out
    assert "--gradient_checkpointing True" in out
    assert "not counted:" in out
    assert main(["plan", "-", "--gpus", "2", "--json", "--samples", "80", "--gpu-memory", "1", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schedule"]["steps"], found["fits"], found["hours"]) == (30, True, None)
    place = words.index("--image_folder")
    elsewhere = [*words[:place], *words[place + 2 :], "--region_eval_data", "/cluster/held_out.json"]
    assert main(["plan", "-", "--gpus", "2", "--json", *elsewhere]) == 0  # reads no image and no held-out record
    assert json.loads(capsys.readouterr().out)["schedule"]["steps"] == 3
    assert not (tmp_path / "out").exists()


WRONG_ZERO: list[tuple[Any, str]] = [
    (2, "zero_optimization 2; give a JSON object"),
    ({"stage": "x"}, 'stage "x"; ZeRO has the stages 0, 1, 2 and 3'),
    ({"offload_param": "cpu"}, 'offload_param "cpu"; give a JSON object'),
    ({"reduce_bucket_size": "5e8"}, 'reduce_bucket_size "5e8"; give a number or "auto"'),
]


def test_what_the_command_cannot_plan_it_says(
    llava_checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags(llava_checkpoint, data, tmp_path / "out")

    def error(*own: str, options: tuple[str, ...] = ("--gpus", "2")) -> str:
        assert main(["plan", "-", *options, *words, *own]) == 2
        return capsys.readouterr().err

    assert "--optimm" in error("--optimm", "sgd")
    assert "stage1 has no region_config.json" in error("--region_modules", str(tmp_path / "stage1"))
    assert "no such checkpoint folder" in error("--model_name_or_path", str(tmp_path / "none"))
    assert "no such file, and no JSON" in error("--deepspeed", str(tmp_path / "zero.json"))
    for value, said in WRONG_ZERO:
        given = json.dumps({"zero_optimization": value})
        assert f"--deepspeed {given}: {said}" in error("--deepspeed", given)
    assert "--length 600 is above --model_max_length 512" in error(options=("--gpus", "1", "--length", "600"))
    assert main(["plan", "-", "--gpus", "1"]) == 2
    assert "--model_name_or_path is missing" in capsys.readouterr().err
    assert "--tokens-per-sample goes with" in error(options=("--gpus", "1", "--tokens-per-sample", "9"))
    above = ("--gpus", "1", "--samples", "8", "--tokens-per-second", "5", "--tokens-per-sample")
    assert "--tokens-per-sample 513 is above --model_max_length 512" in error(options=(*above, "513"))
    assert "--tokens-per-sample 90 is above --length 80" in error(options=(*above, "90", "--length", "80"))
    with pytest.raises(SystemExit):
        main(["plan", "-", "--gpus", "0", *words])
    assert "'0' is no whole number from 1 on" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "-", "--gpus", "1", "--samples-per-second", "abc", *words])
    assert "argument --samples-per-second: 'abc' is no number above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["doctor", "--gpus"])
    assert "unrecognized arguments: --gpus" in capsys.readouterr().err


def test_another_fault_is_not_said_to_be_the_adapters() -> None:
    plain = SimpleNamespace(lora_enable=True, lora_method=None, lora_options=None, lora_r=4, lora_alpha=8,
                            lora_dropout=0.0, lora_bias="none")  # fmt: skip
    with pytest.raises(RuntimeError, match="sizes differ"), adapters_that_count(plain):
        raise RuntimeError("sizes differ")
    plain.lora_options = '{"use_dora": true}'
    with pytest.raises(ValueError, match="plan cannot count --lora_options"), adapters_that_count(plain):
        raise RuntimeError("sizes differ")


@pytest.mark.parametrize(
    "options", [{"peft_type": "LOHA"}, {"peft_type": "SHIRA", "r": 4}, {"trainable_token_indices": [1]}]
)
def test_an_adapter_that_cannot_be_counted_is_named(
    options: dict[str, Any], llava_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """LoHa's forward pass reads values, SHiRA's start does, and trainable tokens mix both kinds of tensors."""
    name = options.get("peft_type", "LORA")
    try:
        AdapterChoice(options=options).config()
    except ValueError:
        pytest.skip("unknown to this peft")
    words = flags(llava_checkpoint, data, tmp_path / "out", **LORA, lora_options=json.dumps(options))
    kind = "--lora_options .*" if name == "LORA" else f"peft_type {name}"
    with pytest.raises(ValueError, match=f"plan cannot count {kind}: its code reads values of tensors"):
        make_plan(words, Question(1, length=64))


def _config_alone(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint that holds config.json files and nothing else."""
    copy = folder / "configs"
    (copy / "tower").mkdir(parents=True)
    values = json.loads((checkpoint / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"mm_vision_tower": str(copy / "tower")}))
    (copy / "tower" / "config.json").write_text((checkpoint / "tower" / "config.json").read_text())
    return copy


def check(words: list[str], found: dict[str, Any], gpus: int = 1) -> None:
    """Compare a plan with what a run held; the batch has the run's own length."""
    plan = make_plan(words, Question(gpus, length=found["length"]))
    on_gpu = 2 * _tower(plan) if found.get("half_on_gpu") else 0
    assert plan.memory.weights + on_gpu == pytest.approx(found["weights"], rel=CLOSE)
    assert plan.memory.gradients == pytest.approx(found["gradients"], rel=CLOSE)
    assert plan.memory.optimizer == pytest.approx(found["optimizer"] + found.get("master", 0), rel=CLOSE)
    # Under ZeRO-3 gathered weights look like activations; transformers 4 keeps a mask of L x L for some padded samples,
    # a tenth of the activations of so small a model.
    if found["padded"] and plan.sharding.stage < 3 and Version(transformers.__version__).major >= 5:
        assert plan.activations.saved == pytest.approx(found["activations"], rel=CLOSE)
    assert plan.schedule is not None
    assert plan.schedule.steps == found["steps"]


def _tower(plan: Any) -> int:
    """Parameters of the vision tower: float16 on a GPU, float32 on the CPU of a test."""
    return next(one.parameters for one in plan.parts if one.name == "vision tower")


CASES = [
    {"stage": "align"},
    {"stage": "finetune", "gradient_accumulation_steps": 3, "num_train_epochs": 3, "per_device_train_batch_size": 2},
    *[
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            {**LORA, "bf16": True},
            {"stage": "align", "bf16": True},
            {"stage": "finetune", "bf16": True, "optim": "adafactor"},
            {"stage": "finetune", "dataloader_drop_last": True, "per_device_train_batch_size": 3},
            {**LORA, "lora_method": "dora"},
            {**LORA, "lora_options": '{"peft_type": "OSF"}'},
            {**LORA, "lora_options": '{"peft_type": "RANDLORA", "r": 4}'},
            {"stage": "lion_mixed", "region_lion_adapters": 8, "allow_no_gradient": True},
            {"stage": "finetune", "gradient_checkpointing": True},
            {**LORA, "bf16": True, "gradient_checkpointing": True},
        )
    ],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_a_run_holds_what_was_planned(
    case: dict[str, Any], llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    if "gradient_checkpointing" in case:  # the kind whose second forward pass the hooks see
        case = {**case, "gradient_checkpointing_kwargs": '{"use_reentrant": true}'}
    words = flags(llava_checkpoint, data, tmp_path / "out", **{"per_device_train_batch_size": 8, **case})
    found = {**measure(words), "half_on_gpu": not case.get("bf16")}
    assert found["padded"] or "per_device_train_batch_size" in case  # else no mask is kept, which a plan counts
    check(words, found)


@pytest.mark.slow
@pytest.mark.parametrize("case", [{"bits": 4}, {"bits": 8}, {"bits": 4, "double_quant": False, "bf16": True}])
def test_few_bits_are_as_many_as_was_planned(
    case: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("transformers", minversion="5.0", reason="older ones quantise on CUDA alone")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    checkpoint = build_llava(tmp_path / "tiny", hidden_size=64, intermediate_size=128)  # multiples of 64, for a CPU
    given = {**LORA, **case, "per_device_train_batch_size": 8}
    words = flags(checkpoint, data, tmp_path / "out", **given)
    found = {**measure(words), "half_on_gpu": not case.get("bf16")}
    assert found["weights"] < 2e6  # in full they are 2.1e6
    check(words, found)


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2", "zero3"])
@pytest.mark.parametrize("case", [{"stage": "finetune", "bf16": True}, {**LORA, "bf16": True}, {"stage": "finetune"}])
def test_two_ranks_hold_what_was_planned(
    zero: str, case: dict[str, Any], llava_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    given = {**case, "per_device_train_batch_size": 2, "deepspeed": ROOT / "recipes" / f"{zero}.json"}
    words = flags(llava_checkpoint, data, tmp_path / "out", **given)
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    clean |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", str(29500 + os.getpid() % 1000)]
    command += ["--module", "tests.training.held_memory", str(tmp_path / "found.json"), json.dumps(words)]
    done = subprocess.run(command, env=clean, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check(words, json.loads((tmp_path / "found.json").read_text()), gpus=2)
