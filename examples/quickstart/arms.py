"""The four arms: both recipes under the DeepSpeed launcher, as a user runs them, then questions on held-out scenes."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

import pvit_ext
from examples.quickstart.towers import Scenes
from examples.quickstart.world import Rendering

RECIPES = Path(__file__).parents[2] / "recipes"
RENDERINGS: dict[str, Rendering] = {
    "image_only": "image_only",
    "text_coordinates": "text_coordinates",
    "stage1": "regions",
    "stage2": "regions",
}
"""The arms in the order of the table, and how each of them reads a question."""
_BAR = re.compile(r"\d+%\|")
_TABLE = re.compile(r"^module .* state$|  (frozen|trained|partly trained)$")
Flags = dict[str, object]


@dataclass(frozen=True)
class Launch:
    """One training run.

    Args:
        recipe: ``stage1.sh`` or ``stage2.sh``.
        output: folder of the result; what it holds is deleted.
        flags: overrides of the recipe's own.
    """

    recipe: str
    output: Path
    flags: Flags


def common_flags(folder: Path, rendering: Rendering) -> Flags:
    """What every run of the quickstart overrides: paths, and settings made for GPUs and billions of parameters."""
    return {
        "model_name_or_path": folder / "base",
        "vision_tower": (folder / "clip").resolve(),
        "data_path": folder / "train" / f"{rendering}.json",
        "image_folder": folder / "train" / "images",
        "deepspeed": RECIPES / "zero2.json",
        "per_device_train_batch_size": 32,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 10,
        "dataloader_num_workers": 1,
    }


def launch(run: Launch) -> None:
    """Run a recipe under ``deepspeed`` in a process of its own; its output goes to ``<output>.log``.

    Raises:
        RuntimeError: with the end of that output when it fails.
    """
    if not RECIPES.is_dir():
        raise FileNotFoundError(f"{RECIPES} is missing: run the quickstart from a checkout, installed with --editable")
    shutil.rmtree(run.output, ignore_errors=True)
    run.output.parent.mkdir(parents=True, exist_ok=True)
    words = [
        word for key, value in (run.flags | {"output_dir": run.output}).items() for word in (f"--{key}", str(value))
    ]
    launcher = [str(_program("deepspeed")), "--num_gpus", "1", "--master_port", str(free_port())]
    run_logged([*launcher, str(RECIPES / run.recipe), *words], run.output, f"deepspeed {run.recipe}")


def run_logged(command: list[str], output: Path, name: str) -> None:
    """Run a command; what it prints goes to ``<output>.log``, its progress bar and table of what trains to the screen.

    Raises:
        RuntimeError: with the end of what it printed when it fails.
    """
    log = output.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment()) as process:
        assert process.stdout is not None
        last = _follow(process.stdout, log, f"{output.name}: ")
    if process.returncode:
        tail = "\n".join(last)
        raise RuntimeError(f"{name} ended with status {process.returncode}, see {log}:\n{tail}")


def ask_arm(arm: str, checkpoint: Path, scenes: Scenes, batch: int = 48) -> list[str]:
    """Answers of one arm to all questions, scene by scene."""
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(checkpoint))
    queries = []
    for scene, questions in scenes:
        for question in questions:
            boxes = question.boxes if RENDERINGS[arm] == "regions" else ()
            regions = [pvit_ext.Region.box(*box) for box in boxes]
            queries.append(pvit_ext.Query(scene.image, question.render(RENDERINGS[arm], scene.image.size), regions))
    return pvit_ext.ask(model, tokenizer, processor, queries, max_new_tokens=4, batch_size=batch, progress=True)


def _program(name: str) -> Path:
    """A console script of this environment, whether or not it is activated."""
    beside = Path(sys.executable).with_name(name)
    found = beside if beside.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed here: pip install 'pvit-ext[quickstart]'")
    return Path(found)


def free_port() -> int:
    """A free port: the launcher's own default is one fixed port, which two runs on a machine would share."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _environment() -> dict[str, str]:
    """No model hub, one process that uses every core; recipes find ``python`` on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    own = {"PATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if not torch.cuda.is_available():
        own |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
    return os.environ | own


def _follow(stream: IO[bytes], log: Path, prefix: str) -> list[str]:
    """Copy a process's output to a file, show its progress bar and its table of what trains, return the last lines."""
    last: deque[str] = deque(maxlen=30)
    bar = ""
    with log.open("w", encoding="utf-8") as file:
        for line in _lines(stream):
            file.write(line + "\n")
            if _BAR.search(line):
                bar = prefix + line.strip()
                print("\r" + bar, end="", file=sys.stderr, flush=True)
                continue
            last.append(line)
            if _TABLE.search(line):
                print(prefix + line, flush=True)
    if bar:
        print(file=sys.stderr)
    return list(last)


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines as they come; a progress bar ends its lines with a carriage return."""
    rest = b""
    while chunk := os.read(stream.fileno(), 1 << 14):
        *complete, rest = re.split(rb"[\r\n]+", rest + chunk)
        yield from (line.decode("utf-8", "replace") for line in complete if line)
    if rest:
        yield rest.decode("utf-8", "replace")
