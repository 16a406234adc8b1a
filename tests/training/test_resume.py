"""Complete checkpoints: which one a resumed run takes, and that what it then does is what the run would have done."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from pvit_ext.hosts.llava import compat
from pvit_ext.training import checkpointing as resume
from pvit_ext.training.checkpointing import MARKER
from pvit_ext.training.identity import Identity
from pvit_ext.training.preemption import StopOnTerm
from pvit_ext.training.sampler import EpochSampler, samples_in_full_steps
from tests import resume_matrix

RUN: dict[str, Any] = {"stage": "align", "region encoder": "regionclip", "lora_r": 64}
SETTINGS: dict[str, Any] = {"seed": 42, "betas": (0.9, 0.999)}
IMAGES = {"a.jpg": "1", "b.jpg": "2"}


def checkpoint(output: Path, step: int, mark: bool = True) -> Path:
    folder = output / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"w" * 100)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "global_step" / "rank0.bin").write_bytes(b"r" * 50)
    if mark:
        resume.mark_complete(folder, Identity(RUN, SETTINGS, IMAGES))
    return folder


def cut(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 99)


def lose(folder: Path) -> None:
    (folder / "global_step" / "rank0.bin").unlink()


def unmark(folder: Path) -> None:
    (folder / MARKER).unlink()


def empty(folder: Path) -> None:
    lose(folder)
    (folder / "weights.bin").unlink()
    unmark(folder)


def borrow(folder: Path) -> None:
    (folder / MARKER).write_bytes((folder.with_name("checkpoint-2") / MARKER).read_bytes())


def cut_marker(folder: Path) -> None:
    os.truncate(folder / MARKER, 40)


def foreign_marker(folder: Path) -> None:
    (folder / MARKER).write_text('["weights.bin"]')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "weights.bin has 99 bytes instead of 100"),
        (lose, "global_step/rank0.bin is missing"),
        (unmark, "saving it was interrupted"),
        (empty, "saving it was interrupted"),
        (borrow, f"its {MARKER} is that of checkpoint-2"),
        (cut_marker, "cannot be read"),
        (foreign_marker, "cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_its_reason(tmp_path: Path, damage: Any, reason: str) -> None:
    whole, newest = checkpoint(tmp_path, 2), checkpoint(tmp_path, 10)
    assert resume.newest_complete(tmp_path) == (newest, [])
    damage(newest)
    found, skipped = resume.newest_complete(tmp_path)
    assert found == whole
    assert len(skipped) == 1
    assert skipped[0].startswith("checkpoint-10: ")
    assert reason in skipped[0]


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    assert resume.newest_complete(tmp_path / "missing") == (None, [])
    for name in ("checkpoint-best", "tmp-checkpoint-6", "checkpoint-5.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert resume.newest_complete(tmp_path) == (None, [])
    checkpoint(tmp_path, 3, mark=False)
    assert resume.newest_complete(tmp_path)[0] is None


def test_limit_deletes_the_oldest_and_what_kills_left(tmp_path: Path) -> None:
    old, whole, killed, stock = (checkpoint(tmp_path, step, mark=step < 6) for step in (2, 4, 6, 8))
    (killed / "trainer_state.json").unlink()
    other = tmp_path / "checkpoint-best"
    other.mkdir()
    for unlimited in (None, 0):
        resume.keep_newest(tmp_path, unlimited)
        assert all(folder.is_dir() for folder in (old, whole, killed, stock, other))
    resume.keep_newest(tmp_path, 1)
    assert [folder.is_dir() for folder in (old, whole, killed, stock, other)] == [False, True, False, True, True]


def test_limit_deletes_nothing_where_nothing_is_complete(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path, step, mark=False) for step in (2, 4)]
    resume.keep_newest(tmp_path, 1)
    assert all(folder.is_dir() for folder in folders)


def test_discarding_takes_the_marker_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path, 2)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resume.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        resume.discard(folder)
    assert (folder / "weights.bin").is_file()
    assert resume.newest_complete(tmp_path)[0] is None


def test_flags_that_contradict_the_checkpoint_are_an_error(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    assert resume.check_same_run(folder, Identity(RUN, SETTINGS, IMAGES)) == []
    assert resume.check_same_run(folder, Identity(RUN, SETTINGS | {"seed": 1}, IMAGES)) == ["seed was 42, is 1"]
    other = Identity(RUN | {"stage": "finetune", "region encoder": "osprey"}, SETTINGS, IMAGES)
    with pytest.raises(
        ValueError, match=r"encoder was 'regionclip', is 'osprey'; stage was 'align', is 'finetune'.*--output_dir"
    ):
        resume.check_same_run(folder, other)


def test_a_checkpoint_from_before_images_were_compared_is_continued(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2)
    marker = json.loads((folder / MARKER).read_text())
    del marker["images"]
    (folder / MARKER).write_text(json.dumps(marker))
    assert resume.check_same_run(folder, Identity(RUN, SETTINGS, IMAGES)) == []


def test_images_that_changed_since_the_checkpoint_are_said(tmp_path: Path) -> None:
    folder, states = checkpoint(tmp_path, 2), {"a.jpg": [1, 1], "c.jpg": [5, 1], "d.jpg": [7, 1]}
    resume.mark_complete(folder, Identity(RUN, SETTINGS, IMAGES, states))
    assert resume.check_same_run(folder, Identity(RUN, SETTINGS, IMAGES, states)) == []
    said = ["1 of 2 further image files have another size by now: d.jpg"]
    changed = Identity(RUN, SETTINGS, IMAGES, {**states, "a.jpg": [2, 2], "d.jpg": [8, 2]})
    assert resume.check_same_run(folder, changed) == said
    (folder / resume.IMAGES).unlink()  # a checkpoint of an earlier version
    assert resume.check_same_run(folder, changed) == []


def test_order_depends_on_seed_and_epoch_alone() -> None:
    compat.layernorm_names()
    from llava.train.llava_trainer import LengthGroupedSampler

    lengths = [length if length % 3 else -length for length in range(1, 41)]
    stock = LengthGroupedSampler(2, world_size=2, lengths=lengths, group_by_modality=True)
    epoch = 0
    sampler = EpochSampler(stock, seed=7, epoch=lambda: epoch)
    first = list(sampler)
    torch.rand(3)
    state = torch.get_rng_state()
    again = list(sampler)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert {number for number, _ in first} == {0}
    assert sorted(index for _, index in first) == list(range(40))
    epoch = 1
    assert [index for _, index in sampler] != [index for _, index in first]
    assert list(EpochSampler(stock, seed=8, epoch=lambda: 0)) != first


def test_a_limit_leaves_out_the_end_of_each_order() -> None:
    epoch = 0
    orders = [EpochSampler(torch.utils.data.RandomSampler(range(8)), 7, lambda: epoch, limit) for limit in (None, 6, 9)]
    for epoch in (0, 1):  # noqa: B007
        whole, part, more = (list(order) for order in orders)
        assert part == whole[:6]
        assert more == whole
    assert [len(order) for order in orders] == [8, 6, 8]


@pytest.mark.parametrize(
    ("samples", "batch", "accumulation", "drop_last", "whole"),
    [
        (8, 2, 3, False, 6),
        (8, 2, 2, False, 8),
        (8, 2, 4, False, 8),
        (8, 2, 5, False, None),
        (11, 2, 3, False, 11),  # the sixth micro-batch has one sample
        (11, 2, 3, True, 6),
        (13, 2, 3, False, 12),
        (5, 1, 1, False, 5),
    ],
)
def test_samples_that_fill_whole_steps(
    samples: int, batch: int, accumulation: int, drop_last: bool, whole: int | None
) -> None:
    assert samples_in_full_steps(samples, batch, accumulation, drop_last) == whole


def agreeing(checkpoints: list[str | None], store: Path, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(checkpoints))
    try:
        resume.check_agreement(checkpoints[rank])
    except ValueError as error:
        sys.exit(9 if f"{checkpoints}: --output_dir must be one shared folder" in str(error) else 1)


@pytest.mark.parametrize(("second", "status"), [("out/checkpoint-4", 0), ("out/checkpoint-2", 9), (None, 9)])
def test_processes_that_see_different_checkpoints_stop(tmp_path: Path, second: str | None, status: int) -> None:
    """As on machines that do not share the folder; the one without any would train from the start."""
    context, found = multiprocessing.get_context("fork"), ["out/checkpoint-4", second]
    ranks = [context.Process(target=agreeing, args=(found, tmp_path / "store", rank)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [status] * 2


class Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("persistent", [False, True])
def test_data_workers_survive_the_signal_that_stops_training(persistent: bool) -> None:
    """A launcher and Slurm signal every process; afterwards no worker may be left that Python would wait for."""
    stop, control = StopOnTerm(), SimpleNamespace(should_save=False, should_training_stop=False)
    arguments = SimpleNamespace(device=torch.device("cpu"))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with stop.listening():
            loader = DataLoader(Numbers(), num_workers=1, persistent_workers=persistent)
            batches = iter(loader)
            next(batches)
            stop.on_step_end(arguments, None, control)
            assert not control.should_training_stop
            workers = multiprocessing.active_children()
            assert len(workers) == 1
            for pid in (workers[0].pid, os.getpid()):
                os.kill(pid, signal.SIGTERM)
            assert len(list(batches)) == 3
            stop.on_step_end(arguments, None, control)
            assert control.should_save
            assert control.should_training_stop
        assert stop.agreed
        assert not [worker for worker in workers if worker.is_alive()]
    finally:
        signal.sigtimedwait({signal.SIGTERM}, 0)
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def test_an_error_while_training_leaves_no_worker_and_no_blocked_signal() -> None:
    stop, handler = StopOnTerm(), signal.getsignal(signal.SIGTERM)
    batches = iter(())

    def train() -> None:
        nonlocal batches  # as a traceback would, it keeps the worker alive
        with stop.listening():
            batches = iter(DataLoader(Numbers(), num_workers=1))
            next(batches)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        train()
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "full-zero3-2"])
def test_interrupted_training_ends_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    resume_matrix.chain(resume_matrix.MODES[name], resume_matrix.build_world(tmp_path / "world"))
