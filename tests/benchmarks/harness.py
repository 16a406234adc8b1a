"""Time callables against each other, interleaved (A B A B ...), so that a shared machine's noise meets all of them.

glibc hands large buffers back to the kernel after each call, and faulting 4 KiB pages in again then weighs on both
sides of a comparison, at random. torch's CPU allocator asks for 2 MiB pages with ``THP_MEM_ALLOC_ENABLE=1`` (Linux,
where ``/sys/kernel/mm/transparent_hugepage/enabled`` allows it). The rows say which of the two they are, and go to
another file. Each row is printed and written when it is measured.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
HUGE_PAGES = os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"
PACKAGES = ("transformers", "flash-attn")  # their versions, and torch's, may explain a row


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks share.

    Args:
        description: of the benchmark, its docstring.
        rounds: timed calls of each form where none are asked for.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"timed calls of each form, default {rounds}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=device, help=f"default here {device}")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="for results, default %(default)s")
    return parser


def compare(
    case: str, forms: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] | None = None, **facts: Any
) -> list[dict[str, Any]]:
    """One row per form; ``speedup`` is the first form's median over this one's.

    Args:
        case: names what is computed.
        forms: the same result in several forms; the first is the baseline.
        rounds: timed calls of each form, after one untimed call.
        clock: in seconds; that of the process, with one thread, tells less of a machine that others load.
        facts: shapes, dtype and whatever else the row should say.
    """
    for form in forms.values():
        form()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            times[name].append(_milliseconds(form, clock or time.perf_counter))
    baseline = statistics.median(next(iter(times.values())))
    return [row_of(case, name, values, baseline, **facts) for name, values in times.items()]


def _milliseconds(form: Callable[[], Any], clock: Callable[[], float]) -> float:
    _wait()
    start = clock()
    form()
    _wait()
    return (clock() - start) * 1e3


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def row_of(case: str, form: str, values: list[float], baseline: float, **facts: Any) -> dict[str, Any]:
    """Quantiles of a form's times.

    Args:
        case: names what is computed.
        form: in which form.
        values: milliseconds, one a round.
        baseline: median of the form that ``speedup`` compares with.
        facts: whatever else the row should say.
    """
    values = sorted(values)
    median = statistics.median(values)
    return {
        "case": case,
        "form": form,
        "median_ms": round(median, 3),
        "p10_ms": round(values[len(values) // 10], 3),
        "p90_ms": round(values[-1 - len(values) // 10], 3),
        "speedup": round(baseline / median, 2),
        "rounds": len(values),
        **facts,
    }


def _scheduling() -> str:
    """The process's priority on a shared machine: rows timed at realtime are faster than a busy machine's."""
    realtime = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    return "realtime" if realtime else f"nice {os.getpriority(os.PRIO_PROCESS, 0)}"


def machine(device: str) -> dict[str, Any]:
    """A row's columns on the machine, its load and its versions."""
    cuda = device == "cuda"
    return {
        "scheduling": _scheduling(),
        "load": round(os.getloadavg()[0], 1),
        "allocator": "huge pages" if HUGE_PAGES else "default",
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else "",
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def write(name: str, rows: Iterable[dict[str, Any]], device: str, folder: Path) -> None:
    """Print each row as it comes and write it to ``FOLDER/<name>.csv``, with a suffix for CUDA and the allocator.

    Args:
        name: of the benchmark.
        rows: measured while they are read.
        device: the one measured on, ``cuda`` or ``cpu``.
        folder: for the file, made if it does not exist.
    """
    name += ("_cuda" if device == "cuda" else "") + ("_huge_pages" if HUGE_PAGES else "")
    written: list[dict[str, Any]] = []
    for row in rows:
        written.append(row | machine(device))
        print(*(f"{key}={row[key]}" for key in ("case", "form", "median_ms", "speedup")), sep="  ", flush=True)
        save(folder / f"{name}.csv", written)


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows to a CSV file; a column is there if one row has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
