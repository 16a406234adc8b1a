"""What `make gpu` runs, in order, and how long each step may take: tests first, then what a GPU is bought for."""

from __future__ import annotations

import sys
from dataclasses import dataclass

TEST_FILES: dict[str, tuple[int, tuple[str, ...]]] = {
    "tests of kernels": (
        70,  # the first to start CUDA
        ("tests/ops/test_backends.py", "tests/ops/test_roi_align.py", "tests/encoders/test_regionclip.py"),
    ),
    "tests of models": (45, ("tests/hosts/transformers/test_gpu.py", "tests/hosts/test_cross_features.py")),
    "tests of the product": (110, ("tests/hosts/test_on_a_gpu.py",)),
}
"""Seconds, and every file that holds tests marked gpu.

Not one process for all: after an illegal access every further call of CUDA fails in it.
"""

DEVICE_BENCHMARKS: dict[str, tuple[int, str]] = {
    "bench_attention": (60, "--rounds 5"),
    "bench_step": (60, "--rounds 3"),
    "bench_regionclip": (35, "--rounds 5"),
    "bench_roi_align": (15, "--rounds 5"),
    "bench_injection": (15, "--rounds 3"),
    "bench_osprey": (15, "--rounds 5"),
    "bench_ferret": (15, "--rounds 5"),
    "bench_gpt4roi": (25, "--rounds 3"),
    "bench_region_cache": (35, "--rounds 3 --case 2 6"),
    "bench_shared_images": (25, "--rounds 2 --case 2 6 8"),
    "bench_serving": (40, "--rounds 1 --clients 16"),
}
"""Seconds and options of each benchmark that runs on a GPU."""

CPU_BENCHMARKS = ("bench_convert", "bench_records")
"""They measure no device; `make bench` runs them."""

PYTEST = "-m pytest -m gpu -v -p no:cacheprovider -p tests.benchmarks.pytest_rows --continue-on-collection-errors"
HANGS = ("-o", "faulthandler_timeout=60")  # then the log says where every thread stands


@dataclass(frozen=True)
class Step:
    """One process.

    Args:
        name: in the rows, and of its log.
        seconds: that it may take; what earlier steps left of theirs comes on top.
        command: program and arguments.
    """

    name: str
    seconds: float
    command: tuple[str, ...]


def steps(folder: str, rounds: int | None = None) -> list[Step]:
    """All steps, in order.

    Args:
        folder: for the rows of benchmarks.
        rounds: timed calls of each form, in place of the list's own.
    """
    found = [
        Step(name, seconds, (sys.executable, *PYTEST.split(), *HANGS, *files))
        for name, (seconds, files) in TEST_FILES.items()
    ]
    for name, (seconds, options) in DEVICE_BENCHMARKS.items():
        words = [*options.split(), *(("--rounds", str(rounds)) if rounds else ())]  # the last one counts
        command = (sys.executable, "-m", f"tests.benchmarks.{name}", "--device", "cuda", "--to", folder, *words)
        found.append(Step(name, seconds, command))
    return found
