"""Runs killed at chosen moments and continued: ``python -m tests.resume_matrix [MODE ...]`` writes recipes/RESUME.md.

Each mode is trained once without interruption, and once through a chain of interruptions in one output folder. The
losses of every step and the exported tensors of both must be equal, bit by bit.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import pvit_ext
from pvit_ext.training.checkpointing import MARKER, newest_complete
from tests.tiny import TINY_REGIONCLIP, build_llava
from tests.training_process import RECIPES, Run, finish

TABLE = RECIPES / "RESUME.md"
STEPS = 9  # three epochs of three; a checkpoint at the end of each
_TENSORS = ("model.safetensors", "region_modules.safetensors", "adapter_model.safetensors", "non_lora_trainables.bin")

COLUMNS = (
    "kill -9 of all after step 4",
    "kill -9 of one rank while 6 is saved",
    "SIGTERM",
    "no room while the next is saved",
    "run was done",
)
_TEXT = """# Interrupted and continued

Written by `python -m tests.resume_matrix`: {versions}.

Each mode is trained once in one go, and once through a chain of interruptions, after each of which the same command
is started again. A tiny LLaVA, {steps} steps in three epochs, a checkpoint after each, `save_total_limit` 1, box
jitter, two data workers (none in the first row), records without a region or image among them, dropout with LoRA,
float32 (bf16 under ZeRO-3 on two processes), `group_by_modality_length` and persistent workers in stage 2 without
DeepSpeed. In every row **the loss of each step, in full precision, and every exported tensor equal the uninterrupted
run's, bit by bit**: after the chain, and after starting the finished run once more.

A cell says from which checkpoint the next run continued, and which it did not take. "No room" is a limit on file size
(RLIMIT_FSIZE) that cuts the largest file of a checkpoint. SIGTERM goes to the last rank alone, and in the row with
exit -15 to every process, launcher and data workers included; nothing was exported as a result then.
"""

# Python runs this at its start; by audit events, it ends the process just before a file is touched.
_KILL_SITE = """
import os, signal, sys
event, ending, rank = os.environ["KILL_AT"].split(":")
def watch(name, args):
    if name == event and str(args[0]).endswith(ending) and os.environ.get("RANK", "0") == rank:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


@dataclass(frozen=True)
class Mode:
    """A way to train: ``zero`` is a config in recipes/, None runs ``python -m pvit_ext.train`` without a launcher."""

    name: str
    zero: str | None = None
    processes: int = 1
    flags: dict[str, Any] = field(default_factory=dict)
    kill_at: str = "open:checkpoint-6/trainer_state.json:0"
    signal_all: bool = False


_ALIGN = {"stage": "align"}
_LORA = {"lora_enable": True, "lora_r": 4, "mm_projector_lr": 1e-3}
_RANK_1 = "os.mkdir:checkpoint-6:1"
MODES = {
    "align": Mode("stage 1", flags={**_ALIGN, "dataloader_num_workers": 0}),
    "align-zero2": Mode("stage 1, ZeRO-2", "zero2", 2, _ALIGN, _RANK_1),
    "full": Mode("stage 2", flags={"group_by_modality_length": True, "dataloader_persistent_workers": True}),
    "full-zero2": Mode("stage 2, ZeRO-2", "zero2"),
    "full-zero2-2": Mode("stage 2, ZeRO-2", "zero2", 2, kill_at=_RANK_1, signal_all=True),
    "full-zero3": Mode("stage 2, ZeRO-3", "zero3"),
    "full-zero3-2": Mode("stage 2, ZeRO-3", "zero3", 2, {"bf16": True}, _RANK_1),
    "lora": Mode("stage 2, LoRA", flags=_LORA),
    "lora-zero2-2": Mode("stage 2, LoRA, ZeRO-2", "zero2", 2, _LORA),
    "lora-zero3-2": Mode("stage 2, LoRA, ZeRO-3", "zero3", 2, {**_LORA, "bf16": True}),
}


def build_world(folder: Path) -> dict[str, Path]:
    """A tiny LLaVA, tower weights, and six records of several image sizes, some without a region or an image."""
    checkpoint = build_llava(folder / "tiny")
    records: list[dict[str, Any]] = []
    for number in range(6):
        pixels = np.random.RandomState(number).randint(0, 255, (60 + 8 * (number % 3), 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is in <region>?"}, {"from": "gpt", "value": "seven red"}]
        records.append({"image": f"{number}.png", "regions": [[5, 5, 40 + number, 40]], "conversations": turns})
    records[3]["conversations"][0]["value"] = "What is this?"
    del records[3]["regions"], records[3]["image"]
    (folder / "data.json").write_text(json.dumps(records))
    tower = pvit_ext.build_region_encoder(pvit_ext.RegionConfig(encoder_options=TINY_REGIONCLIP))
    torch.save(tower.state_dict(), folder / "regionclip.pth")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(_KILL_SITE)
    return {"folder": folder, "checkpoint": checkpoint}


def command(world: dict[str, Path], mode: Mode, output: Path, **changed: Any) -> list[str]:
    """The command line of a run."""
    folder = world["folder"]
    values: dict[str, Any] = {
        "model_name_or_path": world["checkpoint"], "version": "v1", "data_path": folder / "data.json",
        "image_folder": folder, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "pad", "output_dir": output, "num_train_epochs": 3,
        "region_weights": folder / "regionclip.pth", "region_encoder_options": json.dumps(TINY_REGIONCLIP),
        "per_device_train_batch_size": 2 // mode.processes, "learning_rate": 1e-2, "warmup_ratio": 0.03,
        "lr_scheduler_type": "cosine", "model_max_length": 512, "report_to": "none", "save_strategy": "steps",
        "save_steps": 3, "save_total_limit": 1, "logging_steps": 1, "disable_tqdm": True, "dataloader_num_workers": 2,
        "stage": "finetune",
    }  # fmt: skip
    if mode.zero:
        values["deepspeed"] = RECIPES / f"{mode.zero}.json"
    flags = [word for key, value in (values | mode.flags | changed).items() for word in (f"--{key}", str(value))]
    if not mode.zero:
        return [sys.executable, "-u", "-m", "pvit_ext.train", *flags]
    port = ["--master_port", str(29500 + os.getpid() % 1000)]
    deepspeed = str(Path(sys.executable).parent / "deepspeed")
    return [deepspeed, "--num_gpus", str(mode.processes), *port, "--module", "pvit_ext.train", *flags]


def losses(output: Path) -> dict[int, float]:
    """The loss of every step of the runs that led to this output, in full precision."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def tensors(output: Path) -> dict[str, torch.Tensor]:
    """Every tensor that a run exported."""
    found: dict[str, torch.Tensor] = {}
    for path in (output / name for name in _TENSORS if (output / name).is_file()):
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        found |= {f"{path.name}:{key}": value for key, value in state.items()}
    return found


def assert_equal_outcome(output: Path, reference: Path) -> None:
    """Losses and exported tensors are equal, bit by bit."""
    assert losses(output) == losses(reference), (losses(output), losses(reference))
    assert len(losses(reference)) == STEPS
    own, expected = tensors(output), tensors(reference)
    assert own.keys() == expected.keys()
    assert len(own) > 0
    assert [key for key in own if not torch.equal(own[key], expected[key])] == []


def resumed(run: Run) -> str:
    """What the run said it continued from, and what it skipped."""
    skipped = re.findall(r"^skipped checkpoint-(\d+): (.*)$", run.text, re.M)
    start = re.search(r"^resuming from .*checkpoint-(\d+)$", run.text, re.M)
    assert start, run.text
    reasons = {number: reason.replace(MARKER, "marker").partition(":")[0] for number, reason in skipped}
    return f"from {start[1]}" + "".join(f", not {number} ({reason})" for number, reason in reasons.items())


def chain(mode: Mode, world: dict[str, Path]) -> list[str]:
    """Interrupt and continue one training until it is done; one cell for each of :data:`COLUMNS`."""
    scratch = Path(tempfile.mkdtemp(prefix="chain-", dir=world["folder"]))
    reference, output = scratch / "reference", scratch / "output"
    finish(command(world, mode, reference))
    words = command(world, mode, output)
    run = Run(words)
    run.until_losses(4)
    run.kill()
    run.end()
    assert newest_complete(output)[0] == output / "checkpoint-3", run.text
    killed_in_save = Run(words, site=world["folder"] / "site", kill_at=mode.kill_at)
    assert killed_in_save.end() != 0, killed_in_save.text
    assert newest_complete(output)[0] == output / "checkpoint-3", killed_in_save.text
    stopped = Run(words)
    saved = stop(stopped, mode, output)
    full = Run(words, file_limit=max(json.loads((saved / MARKER).read_text())["files"].values()) // 2)
    assert full.end() not in (0, 143), full.text
    assert newest_complete(output)[0] == saved, full.text
    last = finish(words)
    assert_equal_outcome(output, reference)
    again = finish(words)
    assert_equal_outcome(output, reference)
    reached = f"saved {saved.name[11:]}, exit {stopped.process.returncode}; "
    return [(reached if one is full else "") + resumed(one) for one in (killed_in_save, stopped, full, last, again)]


def stop(run: Run, mode: Mode, output: Path) -> Path:
    """Send SIGTERM to one rank, or to every process of the job; return the checkpoint that was saved."""
    run.until_losses(1)
    if mode.signal_all:
        os.killpg(run.process.pid, signal.SIGTERM)
    else:
        run.ranks()[-1].terminate()
    status = run.end()
    assert status == (-signal.SIGTERM if mode.signal_all else 143), run.text  # the launcher itself dies of it
    assert not (output / "config.json").exists()
    assert not tensors(output)
    step = re.findall(r"stopped by SIGTERM after step (\d+)", run.text)
    newest = newest_complete(output)[0]
    assert newest == output / f"checkpoint-{step[0]}", run.text
    return output / f"checkpoint-{step[0]}"


def table(rows: dict[str, list[str]]) -> str:
    """recipes/RESUME.md."""
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate", "peft", "deepspeed")
    )
    lines = [_TEXT.format(versions=f"Python {platform.python_version()}, {versions}, on CPU", steps=STEPS)]
    lines.append(f"| mode | processes | {' | '.join(COLUMNS)} |")
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for name, cells in rows.items():
        lines.append(f"| {MODES[name].name} | {MODES[name].processes} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> None:
    """Run the chains of ``names``; without names all, and write the table."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:  # LLaVA takes any path with "mpt" in it for an MPT
        world = build_world(Path(folder))
        for name in names or MODES:
            rows[name] = chain(MODES[name], world)
            print(name, *rows[name], sep=" | ", flush=True)
    if not names:
        TABLE.write_text(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
