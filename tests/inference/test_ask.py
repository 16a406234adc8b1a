"""ask() and generate(regions=...): equal to recomputation without a cache, equal batched and alone, nothing lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import Query, RegionConfig
from pvit_ext.hosts.llava import batch as batch_module
from pvit_ext.hosts.llava.batch import collate
from pvit_ext.hosts.llava.chat import conversation
from tests.inference.queries import BOX, MIXED, OPTIONS, OTHER, TALL, Loaded, new, recompute


@pytest.mark.parametrize("number", range(len(MIXED)))
def test_greedy_equals_recomputation_without_a_cache(tiny: Loaded, number: int) -> None:
    model, tokenizer, processor = tiny
    query = MIXED[number]
    prompt = batch_module.build_prompt(query, conversation(model), "q", model)
    batch = collate(model, tokenizer, processor, [query], [prompt])
    if batch["images"] is None:
        batch = {key: value for key, value in batch.items() if key in ("inputs", "attention_mask")}
    out = model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=True, pad_token_id=0)[0]
    full = {"images": None, "image_sizes": None, "regions": None, "region_extra": None, **batch}
    assert new(out) == recompute(model, full, 6)


def test_half_precision(llava_checkpoint: Path) -> None:
    config = RegionConfig("regionclip", encoder_options=OPTIONS)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=config, device="cpu", dtype=torch.bfloat16
    )
    assert len(pvit_ext.ask(model, tokenizer, processor, MIXED, max_new_tokens=2)) == len(MIXED)


# Prompts


def test_history_is_the_conversation_written_out(tiny: Loaded, calls: list[dict[str, Any]]) -> None:
    tokenizer = tiny[1]
    query = Query(TALL, "And <region>?", [OTHER, BOX], history=[("What is in <region>?", "a dog")])
    pvit_ext.ask(*tiny, [query], max_new_tokens=1)
    (call,) = calls
    assert [region.points for region in call["regions"][0]] == [OTHER.points, BOX.points]
    ids = call["inputs"][0].tolist()
    text = "".join({-200: "<image>", -300: "<region>"}.get(i) or tokenizer.decode([i]) for i in ids)
    squeezed = text.replace(" ", "")
    assert squeezed.startswith("<s>Achatbetweenacurioususer")
    assert "USER:<image>\nWhatisin<region>?ASSISTANT:adog</s>USER:And<region>?ASSISTANT:" in squeezed
    assert squeezed.endswith("ASSISTANT:")


def test_image_start_and_end_tokens(tiny: Loaded) -> None:
    config = tiny[0].config
    config.mm_use_im_start_end = True
    prompt = batch_module.build_prompt(MIXED[0], conversation(tiny[0]), "q", tiny[0]).texts[0]
    config.mm_use_im_start_end = False
    assert "<im_start><image><im_end>" in prompt


def test_conversation_template(tiny: Loaded) -> None:
    from llava.conversation import conv_templates

    model = tiny[0]
    assert conversation(model) is conv_templates["v1"]
    assert conversation(model, "mpt") is conv_templates["mpt"]
    model.config.pvit_ext["conv_version"] = "mistral_instruct"
    assert conversation(model) is conv_templates["mistral_instruct"]
    assert conversation(model, "v1") is conv_templates["v1"]
    model.config.pvit_ext["conv_version"] = None
    with pytest.raises(ValueError, match=r"unknown conversation template 'nope'; known: .*v1"):
        conversation(model, "nope")


def test_anyres(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny[0].config, "image_aspect_ratio", "anyres")
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    monkeypatch.setattr(tiny[0].config, "image_grid_pinpoints", pinpoints, raising=False)
    alone = [pvit_ext.ask(*tiny, [query], max_new_tokens=4)[0] for query in MIXED]
    assert pvit_ext.ask(*tiny, MIXED, max_new_tokens=4) == alone


@pytest.mark.skipif("PVIT_EXT_DATA" not in os.environ, reason="PVIT_EXT_DATA names no folder with FineEval")
def test_all_130_fineeval_instructions(
    tiny: Loaded, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.environ["PVIT_EXT_DATA"], "fineeval")
    records = [json.loads(line) for line in (folder / "instructions.jsonl").read_text().splitlines()]
    queries = [Query(folder / "images" / record["image"], record["instruction"]) for record in records]
    monkeypatch.setattr(tiny[0].config, "tokenizer_model_max_length", 2048)
    answers = pvit_ext.ask(*tiny, queries, max_new_tokens=2, batch_size=16)
    assert len(answers) == 130
    counts = [len(regions) for call in calls for regions in call["regions"]]
    assert counts == [record["instruction"].count("</Region>") for record in records]
    assert sum(counts) == 142
    assert sum(count > 0 for count in counts) == 115
    for number in (0, 64, 129):
        assert pvit_ext.ask(*tiny, [queries[number]], max_new_tokens=2) == [answers[number]]
