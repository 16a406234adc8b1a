"""`make gpu`: its list is whole and fits its time, and what hangs, fails or is missing costs no row of the rest."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import gpu, gpu_process, gpu_rows, gpu_steps
from tests.benchmarks.gpu_steps import Step
from tests.benchmarks.test_benchmarks import BENCHMARKS

ROOT = Path(__file__).parents[2]
FACTS = {"device": "a fake one", "torch": "2"}
MARK = re.compile(r"mark\.gpu\b")


def names(pattern: str, text: re.Pattern[str]) -> set[str]:
    found = (path for path in (ROOT / "tests").rglob(pattern) if text.search(path.read_text()))
    return {str(path.relative_to(ROOT)) for path in found} - {str(Path(__file__).relative_to(ROOT))}


def test_every_file_with_tests_for_a_gpu_is_in_the_list() -> None:
    listed = [name for _, files in gpu_steps.TEST_FILES.values() for name in files]
    assert sorted(listed) == sorted(names("*.py", MARK))


def test_every_benchmark_is_one_of_a_device_or_of_the_cpu() -> None:
    assert sorted([*gpu_steps.DEVICE_BENCHMARKS, *gpu_steps.CPU_BENCHMARKS]) == BENCHMARKS


def test_the_steps_fit_in_the_time() -> None:
    given = gpu_steps.steps("rows")
    assert sum(step.seconds for step in given) < 60 * gpu.MINUTES == 570
    assert all("--continue-on-collection-errors" in step.command for step in given if "tests/" in step.command[-1])
    assert [step.command[-2:] for step in gpu_steps.steps("rows", 1) if "bench" in step.name] == [
        ("--rounds", "1")
    ] * len(gpu_steps.DEVICE_BENCHMARKS)


@pytest.mark.parametrize("name", gpu_steps.DEVICE_BENCHMARKS)
def test_the_lists_options_are_those_of_the_benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are parsed, and what would be measured is not."""
    module: Any = importlib.import_module(f"tests.benchmarks.{name}")

    class Parsed(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise Parsed

    step = next(step for step in gpu_steps.steps("rows") if step.name == name)
    for one in ("build", "pair"):  # models made before the first row
        monkeypatch.setattr(module, one, stop, raising=False)
    monkeypatch.setattr(module, "write", stop)
    monkeypatch.setattr(module, "RegionConfig", stop, raising=False)
    monkeypatch.setattr(module, "tiny", lambda folder: folder, raising=False)
    monkeypatch.setattr(sys, "argv", [name, *step.command[3:]])
    with pytest.raises(Parsed):
        module.main()


GRANDCHILD = "import time; print('the grandchild', flush=True); time.sleep(600)"
HANGS = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}])
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}], start_new_session=True)
time.sleep(600)
"""
LEAVES = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}], start_new_session=True)
"""
TESTS = """
import pytest
def test_good(record_property): record_property("planned", "3 MiB")
def test_bad(): assert 1 == 2
def test_skips(): pytest.importorskip("no_such_package")
@pytest.fixture
def broken(): raise OSError("no disk")
def test_never_begins(broken): pass
"""


def python(name: str, seconds: float, text: str) -> Step:
    return Step(name, seconds, (sys.executable, "-c", text))


def pytests(name: str, seconds: float, *files: Path) -> Step:
    words = [word for word in gpu_steps.PYTEST.split() if word not in ("-m", "gpu", "pytest")]
    return Step(name, seconds, (sys.executable, "-m", "pytest", *words, "-c", "/dev/null", *map(str, files)))


def timeout_when(monkeypatch: pytest.MonkeyPatch, name: str, come: Callable[[], bool]) -> None:
    """A step's time is over when something has come, however busy the machine is."""

    class Popen(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if timeout is not None and timeout > 1 and name in str(self.args):
                while not come():
                    time.sleep(0.02)
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait(timeout)

    monkeypatch.setattr(gpu_process.subprocess, "Popen", Popen)


def by_run(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {row["run"].rpartition("::")[2]: row for row in rows}


def test_a_hang_a_failure_and_what_they_leave_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their rows are there, the steps behind them run, and no process of theirs lives on."""
    marks: list[str] = []
    log = tmp_path / "gpu_logs" / "a_hang.txt"
    timeout_when(monkeypatch, "hangs", lambda: log.read_text().count("the grandchild") == 2)
    end = gpu_process.end

    def ended(process: Any, mark: str) -> bool:
        marks.append(mark)
        assert end(process, mark)
        assert gpu_process.marked(mark) == []
        return True

    monkeypatch.setattr(gpu_process, "end", ended)
    given = [
        python("a hang", 100, f"# hangs{HANGS}"),
        python("leaves one", 60, LEAVES),
        python("fails", 60, "print('what it did'); raise SystemExit('why it failed')"),
        python("good", 60, "print('done')"),
    ]
    rows = by_run(gpu.run_all(given, tmp_path, FACTS, 9.5, keep=False))
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "a hang": "stopped after 100 s",
        "leaves one": "passed",
        "fails": "exit status 1",
        "good": "passed",
    }
    assert rows["fails"]["reason"] == "why it failed"
    assert rows["good"]["device"] == "a fake one"
    assert len(set(marks)) == 4
    assert "what it did" in capsys.readouterr().out
    assert (tmp_path / "gpu_logs" / "good.txt").read_text() == "done\n"


def test_a_process_that_nothing_ends_holds_no_step_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits in a driver does not take SIGKILL."""
    with monkeypatch.context() as patch:
        patch.setattr(gpu_process, "_kill", lambda *_: None)
        patch.setattr(gpu_process, "TRIES", 1)
        patch.setattr(gpu_process, "_LAST", 0.01)
        steps = [python("stays", 0.01, "import time; time.sleep(2)"), python("good", 60, "")]
        rows = by_run(gpu.run_all(steps, tmp_path, FACTS, 9.5, keep=False))
    assert rows["stays"]["outcome"] == "stopped after 0 s; what it started could not be ended"
    assert rows["good"]["outcome"] == "passed"


@pytest.mark.slow
def test_each_test_has_a_row_though_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "test_good.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import no_such_package\n")
    files = [tmp_path / f"test_{name}.py" for name in ("broken", "good")]
    rows = by_run(gpu.run_all([pytests("tests", 100, *files)], tmp_path, FACTS, 9.5, keep=False))
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "test_broken.py": "error",
        "test_good": "passed",
        "test_bad": "failed",
        "test_skips": "skipped",
        "test_never_begins": "error",
        "tests": "exit status 1",
    }
    assert "No module named 'no_such_package'" in rows["test_broken.py"]["reason"]
    assert rows["test_good"]["facts"] == "planned 3 MiB"
    assert "assert 1 == 2" in rows["test_bad"]["reason"]
    assert "no_such_package" in rows["test_skips"]["reason"]
    assert "no disk" in rows["test_never_begins"]["reason"]


@pytest.mark.slow
def test_a_test_that_hangs_takes_no_row_of_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test_hang.py"
    path.write_text("import time\ndef test_first(): pass\ndef test_hangs(): time.sleep(600)\n")
    timeout_when(monkeypatch, "test_hang", lambda: "test_first" in (tmp_path / "gpu_runs.csv").read_text())
    rows = by_run(gpu.run_all([pytests("tests", 100, path)], tmp_path, FACTS, 9.5, keep=False))
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "test_first": "passed",
        "tests": "stopped after 100 s",
    }


def test_rows_are_kept_where_single_steps_run_again(tmp_path: Path) -> None:
    step = [python("one", 60, "")]
    assert len(gpu.run_all(step, tmp_path, FACTS, 9.5, keep=True)) == 1
    assert len(gpu.run_all(step, tmp_path, FACTS, 9.5, keep=True)) == 1
    assert len(gpu_rows.read(tmp_path / "gpu_runs.csv")) == 2
    with pytest.raises(ValueError, match="has rows of other columns: give another --to"):
        gpu.run_all(step, tmp_path, {"device": "another"}, 9.5, keep=True)
    gpu.run_all(step, tmp_path, {"device": "another"}, 9.5, keep=False)
    assert [row["device"] for row in gpu_rows.read(tmp_path / "gpu_runs.csv")] == ["another"]
    with pytest.raises(ValueError, match=r"no column \['where'\]; it has run, outcome"):
        gpu_rows.append(tmp_path / "gpu_runs.csv", {"where": 1}, {})


def test_single_steps_are_chosen_by_a_word() -> None:
    found = gpu_steps.steps("rows")
    assert [step.name for step in gpu.chosen(["kernels", "serving"], found)] == ["tests of kernels", "bench_serving"]
    with pytest.raises(ValueError, match="no step is called 'bench_convert'; there are tests of kernels"):
        gpu.chosen(["bench_convert"], found)


def test_a_step_finds_this_python_and_this_tree_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = gpu.step_environment(tmp_path / "rows.csv", FACTS)
    assert found["PATH"].startswith(str(Path(sys.executable).parent))
    assert found["PYTHONPATH"] == f"{ROOT}:elsewhere"
    assert (found["HF_HUB_OFFLINE"], found["CUDA_VISIBLE_DEVICES"]) == ("1", "0")


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a driver here")
def test_make_gpu_names_a_missing_driver_before_it_installs_anything(tmp_path: Path) -> None:
    command = ["make", "gpu", f"VENV={tmp_path}/venv"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "nvidia-smi is not on PATH" in ended.stderr + ended.stdout
    assert not (tmp_path / "venv").exists()


def test_make_gpu_with_a_python_of_the_machine_installs_nothing(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    (tmp_path / "own").write_text('#!/bin/sh\necho "own python: $*"\n')
    (tmp_path / "own").chmod(0o755)
    command = ["make", "gpu", f"GPU_PYTHON={tmp_path}/own", "GPU_ARGS=--only kernels", f"VENV={tmp_path}/venv"]
    path = f"{tmp_path}:/usr/bin:/bin"
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": path}, check=True)
    assert "own python: -m tests.benchmarks.gpu --only kernels" in ended.stdout
    assert "egg_info" in ended.stdout
    assert not (tmp_path / "venv").exists()


def test_all_that_is_missing_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("pytest", "llava") else object())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    said = capsys.readouterr().err
    assert "nvidia-smi is not on PATH" in said
    assert "is built without CUDA" in said
    assert "has no pytest: install" in said
    assert "pvit-ext's entry points are not there: run" in said
    assert list(gpu.absent()) == [
        "not installed, llava: without it not run, LLaVA's own models: half of the tests, and half of bench_step"
    ]
    monkeypatch.setattr("transformers.__version__", "5.17.0")
    assert list(gpu.absent())[1].startswith("not run, models of transformers' own: ")


def test_a_torch_that_cannot_start_cuda_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    (problem,) = gpu.missing()
    assert problem.endswith("for CUDA 13.0 cannot start CUDA: the driver is too old")
