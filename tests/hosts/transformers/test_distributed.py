"""Two processes, of which one has a batch without a region: DDP, ZeRO-2 and ZeRO-3."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="its processes speak gloo")
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
@pytest.mark.parametrize("mode", ["ddp", "ddp text", "zero2", "zero3"])
def test_a_rank_without_a_region(name: str, mode: str, tmp_path: Path) -> None:
    kind, *more = mode.split()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.hosts.transformers.distributed_worker", str(tmp_path), kind, name, *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert all(math.isfinite(loss) for one in losses for loss in one)
