"""Each shim alone: it does what it is for where a library lacks something, and nothing where it does not."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pvit_ext.hosts.llava import compat
from tests.checkpoints import load

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
        (OLD, "--warmup_steps abc", "--warmup_steps abc"),
        (OLD | NEW, "--evaluation_strategy no", "--evaluation_strategy no"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*mapped")
def test_flags_of_either_time(known: set[str], given: str, wanted: str) -> None:
    assert compat.known_flags(given.split(), known) == wanted.split()


def test_a_mapped_flag_is_said() -> None:
    with pytest.warns(UserWarning, match="--evaluation_strategy is --eval_strategy"):
        compat.known_flags(["--evaluation_strategy", "no"], NEW)
    with pytest.warns(UserWarning, match="--warmup_ratio is --warmup_steps below 1"):
        compat.known_flags(["--warmup_ratio", "0.03"], NEW)


def test_views_of_one_buffer_are_saved_whole(llava_checkpoint: Path, tmp_path: Path) -> None:
    """As ZeRO-3 gathers on a CPU; transformers 4.37 kept one of the projector's four tensors."""
    model = load(llava_checkpoint)
    projector = {key: value for key, value in model.state_dict().items() if ".mm_projector." in key}
    buffer = torch.cat([value.flatten() for value in projector.values()])
    views = dict(zip(projector, buffer.split([value.numel() for value in projector.values()]), strict=True))
    state = model.state_dict() | {key: value.view(projector[key].shape) for key, value in views.items()}
    model.save_pretrained(tmp_path, state_dict=state)
    saved = load_file(tmp_path / "model.safetensors")
    assert len(projector) == 4
    assert all(torch.equal(saved[key], value) for key, value in projector.items())


def test_tensors_with_a_storage_of_their_own_are_not_copied() -> None:
    whole = torch.arange(6.0)
    found = compat.own_storage({"whole": whole, "tied": whole, "part": whole[2:4]})
    assert found["whole"] is found["tied"] is whole
    assert found["part"].untyped_storage().nbytes() == 8


def test_auto_prefetch_bucket_is_an_integer() -> None:
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    compat.zero3_bucket_is_integer()
    compat.zero3_bucket_is_integer()
    config = HfTrainerDeepSpeedConfig({"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": "auto"}})
    config.fill_only("zero_optimization.stage3_prefetch_bucket_size", 0.9 * 48 * 48)
    assert config.config["zero_optimization"]["stage3_prefetch_bucket_size"] == 2073


def test_groups_without_parameters_are_dropped() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [], "lr": 3.0}, {"params": [weight], "lr": 2.0}])
    compat.drop_empty_groups(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [2.0]


def test_tensors_that_load_as_tied_are_missing(llava_checkpoint: Path) -> None:
    model = load(llava_checkpoint)
    model.lm_head.to("meta")
    assert compat.missing_keys(model, {"missing_keys": ["x"]}) == ["x", "lm_head.weight"]


@pytest.mark.parametrize(
    ("plan", "rounds_up"),
    [
        (None, False),
        (lambda args, loader: (1, len(loader) // args.gradient_accumulation_steps), False),
        (lambda args, loader: (1, -(-len(loader) // args.gradient_accumulation_steps)), True),
        (lambda args, loader, total: (1, -(-len(loader) // args.gradient_accumulation_steps)), True),
    ],
)
def test_whether_the_rest_of_an_epoch_is_a_step_is_asked_of_the_trainer(plan: Any, rounds_up: bool) -> None:
    trainer = SimpleNamespace(args=SimpleNamespace(gradient_accumulation_steps=3))
    if plan is not None:
        trainer.set_initial_training_values = plan
    assert compat.rest_of_epoch_is_a_step(trainer) is rounds_up


def test_the_cache_has_the_name_of_this_transformers(loaded: Any) -> None:
    class Old:
        def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...

    class New:
        def forward(self, input_ids: Any, cache: Any = None) -> None: ...

    assert (compat.cache_name(Old.forward), compat.cache_name(New.forward)) == ("past_key_values", "cache")
    _, model, _ = loaded
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, -2:]
        first = model(input_ids=ids[:, :-2], use_cache=True)
        kept = getattr(first, compat.cache_name(type(model).language_model_class.forward))
        mask = torch.ones_like(ids)
        by_name = [
            model(input_ids=ids[:, -2:], attention_mask=mask, **{name: copy.deepcopy(kept)})
            for name in ("cache", "past_key_values")
        ]
    for out in by_name:
        torch.testing.assert_close(out.logits, whole, atol=1e-5, rtol=0)
