"""The benchmarks' harness: rows as they come, and shared options."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import harness

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_row_is_printed_and_written_before_the_next_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "HUGE_PAGES", False)
    path = tmp_path / "new" / "case.csv"

    def rows() -> Iterator[dict[str, Any]]:
        yield from harness.compare("first", {"a": lambda: None, "b": lambda: None}, 3, regions=8)
        assert capsys.readouterr().out.count("case=first") == 2
        assert [row["form"] for row in read(path)] == ["a", "b"]
        yield harness.compare("second", {"a": lambda: None}, 1)[0] | {"relative_difference": "0"}

    harness.write("case", rows(), "cpu", path.parent)
    first, _, last = read(path)
    assert (first["rounds"], first["regions"], first["relative_difference"]) == ("3", "8", "")
    assert (last["case"], last["relative_difference"], last["torch"]) == ("second", "0", torch.__version__)
    assert first["device"]
    assert first["transformers"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_takes_rounds_device_and_folder(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--rounds", "--device", "--to"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bench_attention", "bench_osprey", "bench_roi_align"])
def test_benchmarks_run_on_a_cpu(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--rounds", "1", "--device", "cpu"]
    subprocess.run([*command, "--to", str(tmp_path)], check=True, cwd=ROOT)
    (path,) = tmp_path.iterdir()
    rows = read(path)
    assert {row["rounds"] for row in rows} == {"1"}
    assert max(float(row["relative_difference"]) for row in rows) < 1e-3


@pytest.mark.slow
def test_operations_are_counted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.count_operations", "--to", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    rows = read(tmp_path / "operations.csv")
    ratios = {(row["encoder"], row["model"], row["stage"]): float(row["ratio"]) for row in rows}
    dear = {key[1:]: ratios.pop(key) for key in list(ratios) if key[0] == "gpt4roi"}
    assert max(ratios.values()) < 1.05
    assert 1.3 < dear["LLaVA-1.5-7B", "2"] < 1.35, "its group norms look at whole maps"
    assert dear["LLaVA-1.6-13B", "2"] < 1.05
    assert dear["LLaVA-1.6-34B", "1"] < 1.05


@pytest.mark.slow
def test_records_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.bench_records", "--rounds", "2", "--records", "20000"]
    subprocess.run([*command, "--to", str(tmp_path)], check=True, cwd=ROOT)
    rows = {row["form"]: row for row in read(tmp_path / "records.csv")}
    assert list(rows) == ["json.load", "first rank", "next rank"]
    assert float(rows["next rank"]["median_ms"]) < float(rows["first rank"]["median_ms"])
    assert float(rows["first rank"]["mib"]) < float(rows["json.load"]["mib"])
    assert float(rows["json.load"]["cpu_ms"]) > 0


@pytest.mark.slow
def test_convert_is_measured_with_all_its_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.bench_convert", "--rounds", "1", "--images", "300"]
    subprocess.run([*command, "--annotations", "2000", "--to", str(tmp_path)], check=True, cwd=ROOT)
    rows = read(tmp_path / "convert.csv")
    assert [row["form"] for row in rows] == ["json.load", "1 worker", "2 workers", "2 workers, no pictures opened"]
    assert all(float(row["cpu_ms"]) > 0 for row in rows)
