"""The vision aggregator as an option of both hosts: switched on in any checkpoint, stored, loaded, swapped, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import RegionConfig
from pvit_ext.tokens.serialization import save_region_modules
from pvit_ext.tools.swap import swap_encoder
from tests.hosts.tiny_hosts import (
    FEW,
    HAS_TRANSFORMERS_HOST,
    MIXED,
    OSPREY,
    Parts,
    TinyHost,
    batch_of,
    load,
    logits,
    save,
)

ADDED = replace(OSPREY, lion_aggregator="added")
APPENDED = replace(OSPREY, lion_aggregator="appended")
QUERIES = MIXED[:3]
TAKES = [one for one in FEW if one in ("llava/llama", "transformers/llava", "transformers/qwen2_5_vl")]
on_both = pytest.mark.parametrize("host", TAKES, indirect=True)


def moved(model: Any) -> Any:
    """Give every tensor of the aggregator other values."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.region_module.lion["region_aggregator"].parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def says(parts: Parts) -> torch.Tensor:
    return logits(parts.model, batch_of(parts, QUERIES))


@on_both
def test_changes_no_bit_at_the_start(host: TinyHost) -> None:
    host.folder()
    without, given = host.attached(OSPREY), host.attached(ADDED)
    assert torch.equal(says(given), says(without))
    moved(given.model)
    assert not torch.equal(says(given), says(without))


@pytest.mark.slow
@on_both
@pytest.mark.parametrize("config", [ADDED, APPENDED], ids=lambda config: config.lion_aggregator)
def test_checkpoints_and_region_files_keep_it(host: TinyHost, config: RegionConfig, tmp_path: Path) -> None:
    host.folder()
    parts = host.attached(replace(config, lion_aggregator_depths="1,0.3"))
    expected = says(Parts(moved(parts.model), *parts[1:]))
    again = load(save(host, parts, tmp_path / "whole"))
    assert torch.equal(says(again), expected)
    late, early = again.model.region_module.lion["region_aggregator"].layers
    assert late > 2
    assert early == 1
    save_region_modules(parts.model, tmp_path / "regions", base=str(host.folder()))
    assert torch.equal(says(load(tmp_path / "regions")), expected)


@pytest.mark.slow
@on_both
def test_swap_and_attach_switch_it_on_and_keep_it(host: TinyHost, tmp_path: Path) -> None:
    host.folder()
    parts = host.attached(OSPREY)
    expected = says(parts)
    swap_encoder(save(host, parts, tmp_path / "whole"), ADDED, tmp_path / "swapped")
    swapped = load(tmp_path / "swapped")
    assert torch.equal(says(swapped), expected)
    pvit_ext.attach(parts.model, ADDED, processor=getattr(parts, "processor", None))
    assert torch.equal(says(parts), expected)
    expected = says(Parts(moved(swapped.model), *swapped[1:]))
    swap_encoder(save(host, swapped, tmp_path / "moved"), OSPREY, tmp_path / "kept")
    assert torch.equal(says(load(tmp_path / "kept")), expected)


@pytest.mark.slow
@on_both
def test_swap_and_attach_switch_to_rows_behind_the_image(host: TinyHost, tmp_path: Path) -> None:
    """Their weights start at random, so both get the same; a processor of the model before is refused. And back."""
    host.folder()
    parts = host.attached(OSPREY)
    swap_encoder(save(host, parts, tmp_path / "whole"), APPENDED, tmp_path / "swapped")
    swapped, before = load(tmp_path / "swapped"), load(tmp_path / "whole")
    assert len(pvit_ext.ask(*swapped, list(QUERIES), max_new_tokens=2)) == 3
    if not host.pads_right:
        with pytest.raises(ValueError, match="or other options of it"):
            pvit_ext.ask(swapped.model, *before[1:], list(QUERIES), max_new_tokens=2)
    pvit_ext.attach(before.model, APPENDED, processor=getattr(before, "processor", None))
    state = swapped.model.region_module.lion["region_aggregator"].state_dict()
    before.model.region_module.lion["region_aggregator"].load_state_dict(state)
    assert torch.equal(says(before), says(swapped))
    pvit_ext.attach(before.model, ADDED, processor=getattr(before, "processor", None))
    swap_encoder(tmp_path / "swapped", ADDED, tmp_path / "added")
    for added in (before, load(tmp_path / "added")):
        assert torch.equal(says(added), says(parts))


@pytest.mark.parametrize("host", [one for one in FEW if one in ("llava/llama",)], indirect=True)
def test_appended_rows_answer(host: TinyHost) -> None:
    host.folder()
    parts = host.attached(APPENDED)
    batch = batch_of(parts, QUERIES[:1])
    out = parts.model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"], None, batch["attention_mask"], None, None, batch["images"], batch["image_sizes"],
        batch["regions"], batch["region_extra"],
    )[4]  # fmt: skip
    again = host.attached(OSPREY).model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"], None, batch["attention_mask"], None, None, batch["images"], batch["image_sizes"],
        batch["regions"], batch["region_extra"],
    )[4]  # fmt: skip
    assert out.shape[1] == again.shape[1] + 16 * int((batch["input_ids"] == -200).sum())
    assert len(pvit_ext.ask(*parts, list(QUERIES), max_new_tokens=2)) == 3


CANNOT_BE: list[tuple[str, dict[str, str], str]] = [
    ("llava/llama", {"lion_aggregator": "behind"}, "lion_aggregator is 'behind': added or appended, or None"),
    ("llava/llama", {"lion_aggregator_depths": "1,0.5"}, "cannot apply without an aggregator"),
    ("llava/llama", {"lion_aggregator": "added", "lion_aggregator_depths": "0.9"}, "give two or more fractions"),
    ("transformers/glm4v", {"lion_aggregator": "added"}, "the last one, in which the vision tower of 'glm4v'"),
]


@pytest.mark.parametrize("host", ["transformers/glm4v"] if HAS_TRANSFORMERS_HOST else [], indirect=True)
@pytest.mark.parametrize("how", ["added", "appended"])
def test_swap_writes_no_folder_that_would_not_load(host: TinyHost, how: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the last one, in which the vision tower of 'glm4v'"):
        swap_encoder(host.folder(), replace(OSPREY, lion_aggregator=how), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "values", "problem"),
    [one for one in CANNOT_BE if HAS_TRANSFORMERS_HOST or one[0].startswith("llava/")],
    indirect=["host"],
)
def test_what_cannot_be_is_refused_by_name(host: TinyHost, values: dict[str, str], problem: str) -> None:
    host.folder()
    with pytest.raises(ValueError, match=problem):
        host.attached(replace(OSPREY, **values))  # type: ignore[arg-type]
