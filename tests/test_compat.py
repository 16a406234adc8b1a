"""Each shim alone: it does what it is for where a library lacks something, and nothing where it does not."""

from __future__ import annotations

import pytest

from pvit_ext import compat

OLD = {"evaluation_strategy", "warmup_ratio", "warmup_steps"}
NEW = {"eval_strategy", "warmup_steps"}


@pytest.mark.parametrize(
    ("known", "given", "wanted"),
    [
        (NEW, "--evaluation_strategy=no --warmup_ratio 0.03", "--eval_strategy no --warmup_steps 0.03"),
        (NEW, "--eval_strategy no --warmup_steps 10", "--eval_strategy no --warmup_steps 10"),
        (OLD, "--evaluation_strategy no --warmup_ratio 0.03", "--evaluation_strategy no --warmup_ratio 0.03"),
        (OLD, "--eval_strategy=no --warmup_steps 0.03", "--evaluation_strategy no --warmup_ratio 0.03"),
        (OLD, "--warmup_steps 10", "--warmup_steps 10"),
        (OLD | NEW, "--evaluation_strategy no", "--evaluation_strategy no"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*mapped")
def test_flags_of_either_time(known: set[str], given: str, wanted: str) -> None:
    assert compat.known_flags(given.split(), known) == wanted.split()


def test_a_mapped_flag_is_said() -> None:
    with pytest.warns(UserWarning, match="--evaluation_strategy is --eval_strategy"):
        compat.known_flags(["--evaluation_strategy", "no"], NEW)
