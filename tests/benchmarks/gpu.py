"""Run all that needs a GPU, in under ten minutes: the tests marked gpu and every benchmark, one row each.

Run ``make gpu``, or ``python -m tests.benchmarks.gpu`` from the repository's root where CUDA's torch is installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from pvit_ext.ops.varlen_attention import environment
from tests.benchmarks.harness import RESULTS, machine, save

MINUTES = 9.5
BENCHMARKS = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
TESTS = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--durations", "5"]


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
    return problems


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
    if free < 8:
        yield "less than 8 GiB are free: the largest benchmarks may not fit"


def run(command: list[str], seconds: float) -> tuple[str, float]:
    """Run one command to its end or for so many seconds.

    Returns:
        Outcome, ``passed`` or what went wrong, and seconds taken.
    """
    start = time.monotonic()
    if seconds <= 0:
        return "not run, no time remained", 0.0
    try:
        status = subprocess.run(command, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s", time.monotonic() - start
    return "passed" if status == 0 else f"exit status {status}", time.monotonic() - start


def rows_of_tests(report: Path) -> Iterator[dict[str, Any]]:
    """One row a test from pytest's JUnit file; none if pytest did not write it."""
    if not report.exists():
        return
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        yield {"run": f"{case.get('classname')}::{case.get('name')}", "outcome": problem, "seconds": case.get("time")}


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tests first, then one benchmark after the other; the rows are written as they come."""
    deadline = time.monotonic() + options.minutes * 60
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row | machine("cuda"))
        save(options.to / "gpu_runs.csv", rows)

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        outcome, seconds = run([*TESTS, f"--junitxml={report}"], deadline - time.monotonic())
        for row in rows_of_tests(report):
            add(row)
        add({"run": "tests marked gpu", "outcome": outcome, "seconds": round(seconds, 1)})
    for name in BENCHMARKS:
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--device", "cuda", "--to", str(options.to)]
        command += ["--rounds", str(options.rounds)] if options.rounds else []
        outcome, seconds = run(command, deadline - time.monotonic())
        add({"run": name, "outcome": outcome, "seconds": round(seconds, 1)})
    return rows


def main() -> int:
    """Run everything; return 0 if all passed, 1 if something did not, 2 if there is no GPU to run on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="timed calls of each form, default each benchmark's own")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="for results, default %(default)s")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limit for all together, default %(default)s")
    options = parser.parse_args()
    if problems := missing():
        print("error: nothing can run on a GPU here", *problems, sep="\n  ", file=sys.stderr)
        return 2
    print(*notes(), sep="\n", flush=True)
    rows = run_all(options)
    failed = [row for row in rows if row["outcome"] not in ("passed", "skipped")]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} runs passed; rows are in {options.to}")
    for row in failed:
        print(f"  {row['run']}: {row['outcome']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
