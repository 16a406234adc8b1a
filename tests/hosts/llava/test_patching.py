"""Patch points: all or none, twice is once, removal restores the very objects, and checkpoints stay LLaVA's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llava.model.builder as builder
import pytest
import torch
from llava.model import llava_arch
from llava.model.language_model import llava_llama, llava_mistral, llava_mpt
from llava.model.multimodal_encoder import clip_encoder
from transformers import AutoModelForCausalLM

import pvit_ext
from pvit_ext.hosts.llava import classes as region_model
from pvit_ext.hosts.llava.patching import (
    PATCH_POINTS,
    AutoModelPoint,
    PatchError,
    PatchPoint,
    apply_pvit,
    patched,
    remove_pvit,
)

LLAMA = "llava.model.builder:LlavaLlamaForCausalLM"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    assert not is_applied()
    yield
    remove_pvit()
    assert not is_applied()


def bound() -> list[Any]:
    return [point.current() for point in PATCH_POINTS]


CLASSES = [llava_llama.LlavaLlamaForCausalLM, llava_mistral.LlavaMistralForCausalLM, llava_mpt.LlavaMptForCausalLM]
STOCK = [
    *CLASSES * 2,
    llava_arch.LlavaMetaModel.initialize_vision_modules,
    llava_arch.build_vision_tower,
    clip_encoder.CLIPImageProcessor,
]
OURS = [
    *region_model.REGION_CLASSES * 2,
    region_model.initialize_vision_modules,
    region_model.build_vision_tower,
    region_model.CLIPImageProcessor,
]


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def is_applied() -> bool:
    assert same(bound(), STOCK) or same(bound(), OURS), "some points are installed, some not"
    return same(bound(), OURS)


def test_apply_and_remove() -> None:
    apply_pvit()
    assert is_applied()
    assert builder.LlavaLlamaForCausalLM is region_model.LlavaLlamaForCausalLM
    assert AutoModelForCausalLM._model_mapping[llava_mpt.LlavaMptConfig] is region_model.LlavaMptForCausalLM
    remove_pvit()
    assert not is_applied()


def test_twice_is_once_and_removing_nothing_is_nothing() -> None:
    apply_pvit()
    apply_pvit()
    assert is_applied()
    remove_pvit()
    assert not is_applied()
    remove_pvit()


def test_patched_scopes_and_nests() -> None:
    with patched():
        with patched():
            assert is_applied()
        assert is_applied()
    assert not is_applied()
    apply_pvit()
    with patched():
        pass
    assert is_applied()


def test_blocks_of_threads_overlap() -> None:
    """Each model under construction has the tower's point patched: one that is done takes it from no other."""
    first, second = patched(), patched()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_applied()
    second.__exit__(None, None, None)
    assert not is_applied()


def test_models_are_made_in_several_threads_at_once(llava_checkpoint: Path) -> None:
    """On the meta device LLaVA's tower class is replaced while it is built: no thread keeps another's replacement."""
    stock, build, problems = clip_encoder.CLIPVisionModel, region_model.LlavaLlamaForCausalLM, list[Exception]()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def make() -> None:
        config = region_model.load_config(str(llava_checkpoint))
        config.unfreeze_mm_vision_tower = True
        try:
            for _ in range(3):
                with torch.device("meta"):
                    build(config)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert problems == []
    assert clip_encoder.CLIPVisionModel is stock
    assert not is_applied()


def test_patched_restores_after_an_exception() -> None:
    with pytest.raises(KeyError), patched():
        raise KeyError("in the block")
    assert not is_applied()


def test_remove_inside_the_block() -> None:
    with patched():
        remove_pvit()
        assert not is_applied()


# All or none


def test_a_method_is_bound_on_its_class_and_restored() -> None:
    target = "llava.model.llava_arch:LlavaMetaModel.initialize_vision_modules"
    point = PatchPoint(target, "pvit_ext.hosts.llava.classes:initialize_vision_modules", {"": ("self", "model_args")})
    stock = llava_arch.LlavaMetaModel.initialize_vision_modules
    with patched([point]):
        assert llava_llama.LlavaLlamaModel.initialize_vision_modules is region_model.initialize_vision_modules
    assert llava_arch.LlavaMetaModel.__dict__["initialize_vision_modules"] is stock


@pytest.mark.parametrize("names", ["NoSuchClass.initialize", "LlavaMetaModel.no_such_method"])
def test_a_method_that_is_not_there(names: str) -> None:
    point = PatchPoint(f"llava.model.llava_arch:{names}", "pvit_ext.hosts.llava.classes:initialize_vision_modules")
    with pytest.raises(PatchError, match=rf"llava_arch:{names}: llava.model.llava_arch has no {names}"):
        apply_pvit([*PATCH_POINTS, point])
    assert not is_applied()


def test_missing_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(builder, "LlavaMptForCausalLM")
    with pytest.raises(PatchError, match=r"llava.model.builder:LlavaMptForCausalLM.*no LlavaMptForCausalLM"):
        apply_pvit()
    monkeypatch.undo()
    assert not is_applied()


def test_missing_module() -> None:
    point = PatchPoint("llava.no_such_module:Thing", "pvit_ext.hosts.llava.model:RegionMixin")
    with pytest.raises(PatchError, match=r"llava.no_such_module:Thing: cannot import .*No module named"):
        apply_pvit([*PATCH_POINTS, point])
    assert not is_applied()


def test_missing_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("llava.model.llava_arch.LlavaMetaForCausalLM.encode_images")
    with pytest.raises(PatchError, match=rf"{LLAMA}.encode_images: expected a callable .*'images'.*found none"):
        apply_pvit()
    monkeypatch.undo()
    assert not is_applied()


def test_changed_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self: Any, input_ids: Any, attention_mask: Any, past_key_values: Any, labels: Any, images: Any) -> None:
        """LLaVA 1.0 had no position_ids here."""

    monkeypatch.setattr("llava.model.llava_arch.LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal", prepare)
    with pytest.raises(PatchError) as caught:
        apply_pvit()
    message = str(caught.value)
    assert message.startswith(f"{LLAMA}.prepare_inputs_labels_for_multimodal: expected parameters ")
    assert "found ['self', 'input_ids', 'attention_mask'" in message
    assert message.endswith("missing ['position_ids', 'image_sizes']")
    monkeypatch.undo()
    assert not is_applied()


def test_reordered_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self, position_ids, input_ids, attention_mask, past_key_values, labels, images, image_sizes=None):  # type: ignore[no-untyped-def]
        """Called by position, so the order counts."""

    monkeypatch.setattr("llava.model.llava_arch.LlavaMetaForCausalLM.prepare_inputs_labels_for_multimodal", prepare)
    with pytest.raises(PatchError, match="in another order"):
        apply_pvit()
    monkeypatch.undo()
    assert not is_applied()


def test_config_without_a_registered_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unregistered(llava_llama.LlavaConfig):
        pass

    monkeypatch.setattr(llava_llama, "LlavaConfig", Unregistered)
    with pytest.raises(
        PatchError, match=r"llava_llama:LlavaConfig: expected a class .*AutoModelForCausalLM, found none"
    ):
        apply_pvit()
    monkeypatch.undo()
    assert not is_applied()


def test_binding_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = AutoModelPoint.bind

    def failing(self: AutoModelPoint, value: Any) -> None:
        if value is region_model.LlavaMptForCausalLM:
            raise ValueError("refused")
        bind(self, value)

    monkeypatch.setattr(AutoModelPoint, "bind", failing)
    with pytest.raises(ValueError, match="refused"):
        apply_pvit()
    monkeypatch.undo()
    assert not is_applied()
    apply_pvit()
    assert is_applied()


def test_broken_replacement_installs_nothing() -> None:
    point = PatchPoint(LLAMA, "pvit_ext.hosts.llava.classes:NoSuchClass")
    with pytest.raises(AttributeError, match="NoSuchClass"):
        apply_pvit([*PATCH_POINTS, point])
    assert not is_applied()


# Somebody else


def test_someone_who_rebinds_after_us_is_named_and_nothing_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        pass

    apply_pvit()
    monkeypatch.setattr(builder, "LlavaMistralForCausalLM", Theirs)
    with pytest.raises(
        PatchError, match=r"builder:LlavaMistralForCausalLM was rebound .*Theirs.*restore that one first"
    ):
        remove_pvit()
    monkeypatch.undo()
    assert is_applied()


def test_someone_who_wrapped_before_us_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(llava_llama.LlavaLlamaForCausalLM):
        pass

    monkeypatch.setattr(builder, "LlavaLlamaForCausalLM", Theirs)
    apply_pvit()
    remove_pvit()
    assert builder.LlavaLlamaForCausalLM is Theirs
    monkeypatch.undo()


# LLaVA's and transformers' own ways in


def test_builder_and_auto_class_give_region_models(llava_checkpoint: Path) -> None:
    with patched():
        loaded = builder.load_pretrained_model(str(llava_checkpoint), None, "llava-tiny", device="cpu")[1]
        auto = AutoModelForCausalLM.from_pretrained(str(llava_checkpoint))
    assert type(loaded) is type(auto) is region_model.LlavaLlamaForCausalLM
    assert type(AutoModelForCausalLM.from_pretrained(str(llava_checkpoint))) is llava_llama.LlavaLlamaForCausalLM


def test_public_names_are_the_same_functions() -> None:
    assert (pvit_ext.apply_pvit, pvit_ext.remove_pvit, pvit_ext.patched) == (apply_pvit, remove_pvit, patched)
