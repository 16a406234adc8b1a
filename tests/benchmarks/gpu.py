"""Run all that needs a GPU, in under ten minutes: the tests marked gpu and the benchmarks of a device, one row each.

Run ``make gpu``, or ``python -m tests.benchmarks.gpu`` from the repository's root where CUDA's torch is installed.
``--only`` takes single steps, and adds their rows to those that are there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pvit_ext.hosts.transformers.entry import check_version
from pvit_ext.ops.varlen_attention import environment
from tests.benchmarks import gpu_process, gpu_rows
from tests.benchmarks.gpu_steps import Step, steps
from tests.benchmarks.harness import RESULTS, machine

MINUTES = 9.5
ROOT = Path(__file__).parents[2]
NEEDED = ("pytest", "numpy", "PIL", "transformers", "peft", "safetensors", "tokenizers", "accelerate", "psutil")
"""Without one of these no test and no benchmark of a model runs."""
COSTS = {
    "llava": "LLaVA's own models: half of the tests, and half of bench_step",
    "sentencepiece": "LLaVA's own models",
    "einops": "LLaVA's own models",
    "hypothesis": "tests/ops/test_roi_align.py",
    "deepspeed": "the recipe under ZeRO",
    "bitsandbytes": "4 bits",
    "fastapi": "the served request and bench_serving",
    "uvicorn": "the served request and bench_serving",
    "pydantic": "the served request and bench_serving",
    "prometheus_client": "the served request and bench_serving",
    "multipart": "the served request and bench_serving",
    "torchvision": "transformers' fast image processors, and a form of bench_roi_align",
}


def missing() -> list[str]:
    """Why this machine can run nothing on a GPU, and what to do."""
    problems = []
    if not shutil.which("nvidia-smi"):
        problems.append("nvidia-smi is not on PATH: install NVIDIA's driver, or start the container with --gpus all")
    if torch.version.cuda is None:
        problems.append(
            f"torch {torch.__version__} is built without CUDA: install one that nvidia-smi's CUDA version can run"
            " (https://pytorch.org/get-started/locally)"
        )
    elif not torch.cuda.is_available():
        try:
            torch.cuda.init()
            problems.append("torch sees no GPU: look at CUDA_VISIBLE_DEVICES")
        except (RuntimeError, AssertionError) as error:
            problems.append(f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot start CUDA: {error}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        problems.append(f"{sys.executable} has no {', '.join(missing)}: install them, without a network from wheels")
    if not importlib.metadata.entry_points(group="pvit_ext.region_encoders"):
        problems.append(
            "pvit-ext's entry points are not there: run"
            f" {sys.executable} -m pip install --no-deps --no-build-isolation --editable ."
        )
    return problems


def absent() -> Iterator[str]:
    """Packages that are not there, and what is not run without them."""
    for name, cost in COSTS.items():
        if importlib.util.find_spec(name) is None:
            yield f"not installed, {name}: without it not run, {cost}"
    try:
        check_version()
    except ValueError as error:
        yield f"not run, models of transformers' own: {error}"


def notes() -> Iterator[str]:
    """Which tests and benchmarks will run, and which flash kernels will not."""
    device = torch.device("cuda")
    found = environment(device)
    free = torch.cuda.mem_get_info(device)[0] / 2**30
    yield f"{torch.cuda.get_device_name()}, compute capability {found.capability}, {free:.1f} GiB free"
    yield ", ".join(f"{name} {value}" for name, value in machine("cuda").items() if value and name != "device")
    if found.capability is not None and found.capability < (8, 0):
        yield "flash kernels need compute capability 8.0 (Ampere): their tests will fail here"
    yield from (f"not measured, {kernel}: {problem}" for kernel, problem in found.problems if problem)
    yield from absent()
    if free < 8:
        yield "less than 8 GiB are free: the largest benchmarks may not fit"


def run_all(given: Sequence[Step], folder: Path, facts: dict[str, Any], minutes: float, keep: bool) -> list[Any]:
    """One step after the other; a row is written when a test or a step has ended.

    Args:
        given: the steps; each has its own seconds and what those before it left.
        folder: for the rows, ``gpu_runs.csv``, and the logs.
        facts: of the machine, for each row.
        minutes: for all; steps get less than their seconds where these are more together.
        keep: rows that are there.

    Returns:
        The rows of this run.
    """
    path, logs = folder / "gpu_runs.csv", folder / "gpu_logs"
    gpu_rows.begin(path, facts, keep)
    before = len(gpu_rows.read(path))
    logs.mkdir(exist_ok=True)
    variables = step_environment(path, facts)
    factor = min(1.0, minutes * 60 / sum(step.seconds for step in given))
    deadline = time.monotonic()
    for step in given:
        deadline += step.seconds * factor
        begun, log = time.monotonic(), logs / f"{step.name.replace(' ', '_')}.txt"
        print(f"{step.name} (at most {deadline - begun:.0f} s, {log})", flush=True)
        outcome = gpu_process.run(step.command, deadline - begun, log, variables)
        lines = log.read_text(errors="replace").splitlines()
        reason = "" if outcome == "passed" else next((one for one in reversed(lines) if one.strip()), "")[:400]
        seconds = round(time.monotonic() - begun, 1)
        row = {"run": step.name, "outcome": outcome, "seconds": seconds, "reason": reason}
        gpu_rows.append(path, row, facts)
        print(*(lines[-20:] if reason else ()), f"{step.name}: {outcome}, {seconds} s", sep="\n", flush=True)
    return gpu_rows.read(path)[before:]


def step_environment(path: Path, facts: dict[str, Any]) -> dict[str, str]:
    """Variables of a step: where its rows go, no network, this Python and this tree first, one GPU."""
    own = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    own |= {gpu_rows.FILE: str(path.resolve()), gpu_rows.MACHINE: json.dumps(facts)}
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if torch.cuda.device_count() > 1:  # transformers' Trainer would use all, in threads of one process
        own["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {**os.environ, **own}


def chosen(names: Sequence[str] | None, found: list[Step]) -> list[Step]:
    """Steps whose names have one of these words, or all.

    Raises:
        ValueError: for a word that no step has.
    """
    for word in names or ():
        if not any(word in step.name for step in found):
            raise ValueError(f"no step is called {word!r}; there are {', '.join(step.name for step in found)}")
    return [step for step in found if names is None or any(word in step.name for word in names)]


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)  # runs what ends the step


def main() -> int:
    """Run everything; return 0 if all passed, 1 if something did not, 2 if there is no GPU to run on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="timed calls of each form, default those of the list of steps")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="for results, default %(default)s")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limit for all together, default %(default)s")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="steps whose names have one of these words")
    options = parser.parse_args()
    try:
        given = chosen(options.only, steps(str(options.to), options.rounds))
    except ValueError as error:
        parser.error(str(error))
    if problems := missing():
        print("error: nothing can run on a GPU here", *problems, sep="\n  ", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _stop)
    print(*notes(), sep="\n", flush=True)
    rows = run_all(given, options.to, machine("cuda"), options.minutes, options.only is not None)
    failed = [row for row in rows if row["outcome"] not in ("passed", "skipped")]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} runs passed; rows and logs are in {options.to}")
    for row in failed:
        print(f"  {row['run']}: {row['outcome']} {row['reason']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
