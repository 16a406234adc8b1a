"""DeepSpeed's launcher on a machine without a GPU."""

from __future__ import annotations

import importlib

import pytest

from pvit_ext.hosts.llava import cpu_launch


def test_a_cpu_launch_compiles_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = importlib.import_module("deepspeed.comm.torch")
    monkeypatch.setattr(backend, "build_shm_op", lambda: pytest.fail("compiled"), raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    cpu_launch.cpu_deepspeed_shm_op()
    assert backend.build_shm_op() is None
