"""The examples with several nodes in docs/training.md, word for word, with stand-ins for what a cluster brings."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pvit_ext
from tests.samples import write_training_data

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
SRUN = """#!/bin/bash
if [ -n "$SRUN_STATUS" ]; then exit $SRUN_STATUS; fi
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" & children="$children $!"; done
status=0
for child in $children; do wait "$child" || status=$?; done
exit $status
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; echo 127.0.0.2; else echo "$@" > requeued; fi
"""
PDSH = """#!/bin/bash
node=0 command="${*:6}"
for host in ${5//,/ }; do
    bash -c "${command//%n/$node}" </dev/null & children="$children $!"
    node=$((node + 1))
done
status=0
for child in $children; do wait "$child" || status=$?; done
exit $status
"""


def block(start: str, language: str) -> str:
    """The first fenced block behind a heading."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE[PAGE.index(start) :], re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment in which the commands of the examples run, in its HOME."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "pdsh": PDSH, "ssh": "#!/bin/bash\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    path = os.pathsep.join((str(tools), str(Path(sys.executable).parent), os.environ["PATH"]))
    own = {
        "PATH": path,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    return {**clean, **own, "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-[1-2]"}


@pytest.fixture
def folder(cluster: dict[str, str], llava_checkpoint: Path) -> Path:
    """HOME, with the paths that the examples name."""
    home = Path(cluster["HOME"])
    (home / "images").mkdir()
    Path(write_training_data(home / "images")).rename(home / "stage2.json")
    (home / "recipes").symlink_to(ROOT / "recipes")
    (home / "llava-v1.5-7b").symlink_to(llava_checkpoint)
    torch.manual_seed(0)
    config = pvit_ext.RegionConfig(encoder="cross_attention", encoder_options={"heads": 1, "head_dim": 8})
    _, model, _, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), region_config=config, device="cpu")
    pvit_ext.save_region_modules(model, home / "checkpoints" / "pvit-stage1", base=str(llava_checkpoint))
    return home


def run(script: str, cluster: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """On a port of its own."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        script = script.replace("29500", str(one.getsockname()[1]))
    return subprocess.run(
        ["bash", "-c", script],
        env=cluster,
        cwd=cluster["HOME"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def check_trained_by_two(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    weights = load_file(folder / "checkpoints" / "pvit-stage2" / "model.safetensors")
    assert "model.region_projector.box_embedding.weight" in weights
    assert re.search(r"\b3/3\b", done.stdout + done.stderr)  # 8 records, two processes with 4 each, 3 epochs


@pytest.mark.slow
def test_slurm(cluster: dict[str, str], folder: Path) -> None:
    check_trained_by_two(run(block("### Slurm", "bash"), cluster), folder)


@pytest.mark.slow
def test_hostfile(cluster: dict[str, str], folder: Path) -> None:
    (folder / "hostfile").write_text(block("### A hostfile", "text").replace("slots=8", "slots=1"))
    script = block("### A hostfile", "sh").replace(
        "--master_addr node-1", "--master_addr 127.0.0.1 --master_port 29500"
    )
    check_trained_by_two(run(script, cluster), folder)


@pytest.mark.parametrize(("status", "requeued"), [(143, True), (1, False), (0, False)])
def test_slurm_requeues_what_sigterm_ended(cluster: dict[str, str], status: int, requeued: bool) -> None:
    done = run(block("### Slurm", "bash"), cluster | {"SRUN_STATUS": str(status)})
    assert done.returncode == status
    assert (Path(cluster["HOME"]) / "requeued").is_file() == requeued
