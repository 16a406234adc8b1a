"""Every language model class of LLaVA with regions: generation, padding, truncation, templates, and both stages."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.hosts.llava import classes, compat
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.hosts.llava.image_layout import ImageLayout
from tests.inference.queries import MIXED, new, recompute
from tests.tiny import build_llava

compat.prepare_training()

from llava import conversation as llava_conversation  # noqa: E402

from pvit_ext.hosts.llava.chatml import preprocess_mpt  # noqa: E402
from pvit_ext.hosts.llava.region_token import tokenizer_region_token  # noqa: E402
from pvit_ext.training.llava.arguments import RegionModelArguments  # noqa: E402
from tests.training.records import record  # noqa: E402
from tests.training.runs import flags, run  # noqa: E402

FAMILIES = {"llama": "v1", "mistral": "mistral_instruct", "mpt": "mpt"}
ANYRES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}
Loaded = tuple[Any, Any, Any]


def load(folder: Path) -> Loaded:
    """(model, tokenizer, processor) with an encoder on the tower's features, and weights that tell prompts apart."""
    torch.manual_seed(1)
    config = RegionConfig("osprey", encoder_options={"position_grid": 8}, box_embedding=True)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), region_config=config, device="cpu")
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "tower" not in name and "encoder" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, tokenizer, processor


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def built(family: str, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp(family) / "tiny"
    return load(build_llava(folder, family=family, mm_patch_merge_type="spatial_unpad", tokenizer_model_max_length=900))


slow = pytest.mark.slow


@pytest.fixture(params=["pad", "spatial_unpad", pytest.param("flat", marks=slow), pytest.param("spatial", marks=slow)])
def loaded(request: pytest.FixtureRequest, built: Loaded, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """With one picture an image, and with tiles, merged in each way."""
    config = built[0].config
    if request.param != "pad":
        monkeypatch.setattr(config, "mm_patch_merge_type", request.param)
        for key, value in ANYRES.items():
            monkeypatch.setattr(config, key, value, raising=False)
    return built


def inputs_of(loaded: Loaded, queries: list[Query]) -> dict[str, Any]:
    model = loaded[0]
    return collate(*loaded, queries, [build_prompt(query, conversation(model), "q", model) for query in queries])


# Generation


def test_batched_equals_alone_and_alone_equals_recomputation_without_a_cache(loaded: Loaded) -> None:
    alone = [pvit_ext.ask(*loaded, [query], max_new_tokens=4)[0] for query in MIXED]
    assert pvit_ext.ask(*loaded, MIXED, max_new_tokens=4) == alone
    for query in (MIXED[0], MIXED[2]):  # two regions, two images
        batch = inputs_of(loaded, [query])
        out = loaded[0].generate(**batch, max_new_tokens=4, do_sample=False, use_cache=True, pad_token_id=0)[0]
        assert new(out) == recompute(loaded[0], batch, 4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_do_not_depend_on_padding(loaded: Loaded, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded[0]
    monkeypatch.setattr(model.config, "tokenizer_padding_side", side)
    queries = [MIXED[0], MIXED[2], MIXED[3]]
    batch = inputs_of(loaded, queries)
    with torch.no_grad():
        together = model(batch.pop("inputs"), **batch).logits
        for row, query in enumerate(queries[:2]):
            one = inputs_of(loaded, [query])
            expected = model(one.pop("inputs"), **one).logits[0]
            found = together[row, -len(expected) :] if side == "left" else together[row, : len(expected)]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_regions_reach_the_answer(loaded: Loaded) -> None:
    boxes = [Region.box(0, 3, 9, 35), Region.box(25, 3, 55, 12)]
    logits = []
    for box in boxes:
        batch = inputs_of(loaded, [Query(MIXED[0].image, "What is <region>?", [box])])
        with torch.no_grad():
            logits.append(loaded[0](batch.pop("inputs"), **batch).logits[0, -1])
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_a_region_that_truncation_cuts_off_names_the_sample(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded[0]
    query = Query(MIXED[0].image, "Describe the image. What is <region>?", [Region.box(3, 4, 20, 30)])
    batch = inputs_of(loaded, [MIXED[3], query])
    rows = ImageLayout.of(model).positions(MIXED[0].image.size)
    monkeypatch.setattr(model.config, "tokenizer_model_max_length", rows + 3)
    with pytest.raises(RegionError, match=rf"^q, region 0: cut off, .* maximum of {rows + 3};"):
        model(batch.pop("inputs"), **batch)
    with pytest.raises(RegionError, match=rf"^query 1: its prompt takes \d+ positions, .* is {rows + 3}"):
        pvit_ext.ask(*loaded, [Query(None, "Red"), query], batch_size=2, conv_version="plain")


def test_template_is_the_one_llava_uses_for_the_class(built: Loaded, family: str) -> None:
    assert conversation(built[0]) is llava_conversation.conv_templates[FAMILIES[family]]


def test_image_start_and_end_tokens(family: str, tmp_path: Path) -> None:
    loaded = load(build_llava(tmp_path / "tiny", family=family, mm_use_im_start_end=True))
    model, tokenizer, _ = loaded
    assert tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"]) == [330, 331]
    assert model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == 332
    batch = inputs_of(loaded, MIXED[:1])
    ids = batch["inputs"][0].tolist()
    image = ids.index(-200)
    assert ids[image - 1 : image + 2] == [330, -200, 331]
    alone = [pvit_ext.ask(*loaded, [query], max_new_tokens=4)[0] for query in MIXED]
    assert pvit_ext.ask(*loaded, MIXED, max_new_tokens=4) == alone
    out = model.generate(**batch, max_new_tokens=4, do_sample=False, pad_token_id=0)[0]
    assert new(out) == recompute(model, batch, 4)


def test_flags_that_llava_does_not_implement_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--mm_use_im_start_end True with --tune_mm_mlp_adapter True.*drop one"):
        RegionModelArguments(mm_use_im_start_end=True, tune_mm_mlp_adapter=True)


# Which class a checkpoint asks for


@pytest.mark.parametrize("folder", ["prompt", "other"])
def test_class_goes_by_the_config_not_by_the_path(family: str, folder: str, tmp_path: Path) -> None:
    """``prompt`` holds ``mpt``, at which LLaVA's train() would take its MPT class."""
    path = build_llava(tmp_path / folder, family=family)
    model = classes.ByModelType.from_pretrained(classes.CheckpointPath(path))
    assert type(model) is getattr(classes, f"Llava{family.capitalize()}ForCausalLM")
    assert ("mpt" in classes.CheckpointPath(path)) == (family == "mpt")
    assert folder[:3] in classes.CheckpointPath(path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_plain_language_model_becomes_the_llava_class_of_its_kind(family: str, tmp_path: Path) -> None:
    config = build_llava(tmp_path / "llava", family=family) / "config.json"
    kind = getattr(classes, f"Llava{family.capitalize()}ForCausalLM").language_model_class
    values = {key: value for key, value in json.loads(config.read_text()).items() if not key.startswith("mm_")}
    kind(kind.config_class(**values | {"model_type": family})).save_pretrained(tmp_path / "plain")
    model = classes.ByModelType.from_pretrained(str(tmp_path / "plain"))
    assert model.config.to_dict()["model_type"] == f"llava_{family}"
    assert issubclass(type(model), kind)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(
        ValueError, match=r"model_type 'gpt2' is no LLaVA checkpoint; known: \['llama', 'llava_llama', .*'mpt'\]"
    ):
        classes.ByModelType.from_pretrained(str(tmp_path))


# Labels of ChatML templates


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("family", ["llama", "mpt"], indirect=True)
def test_chatml_labels_are_the_answers(built: Loaded, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = built[1]
    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["mpt"])
    said = ["a cat", "<image>\nWhat is in <region>?", "a dog\nand a cat", "Is <region> red?", " seven red"]
    turns = [{"from": "gpt" if n % 2 == 0 else "human", "value": text} for n, text in enumerate(said)]
    conv = llava_conversation.conv_templates["mpt"].copy()
    for turn in turns[1:]:
        conv.append_message(conv.roles[turn["from"] == "gpt"], turn["value"])
    found = preprocess_mpt([turns[first:], turns[1:3]], tokenizer, has_image=True)
    ids, labels = found["input_ids"][0], found["labels"][0]
    assert ids.tolist() == tokenizer_region_token(conv.get_prompt(), tokenizer)
    spans = (labels != -100).long().diff(prepend=torch.zeros(1, dtype=torch.long))
    starts, ends = (spans == 1).nonzero().flatten(), [*(spans == -1).nonzero().flatten(), len(labels)]
    answers = [tokenizer.decode(labels[a:b]) for a, b in zip(starts, ends, strict=False)]
    assert [answer.replace(" ", "") for answer in answers] == ["adog\nandacat<|im_end|>", "sevenred<|im_end|>"]
    assert torch.equal(labels[labels != -100], ids[labels != -100])
    assert len(found["input_ids"][1]) < len(ids)


# Training


@pytest.fixture(scope="module")
def data(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide, tall and square images; two regions, no region, text only, two turns."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(8):
        size = [(60, 90, 3), (90, 60, 3), (64, 64, 3)][number % 3]
        pixels = np.random.RandomState(number).randint(0, 255, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    records = [record(number) for number in range(4)]
    records += [record(4, "Compare <region> with <region>.", [(5, 5, 40, 40), (30, 10, 50, 30)])]
    records += [record(5, "Describe the image.", ()), record(6, "What is this?", (), image=False), record(7)]
    if family != "mistral":  # LLaVA masks the second turn of its template where, as here, no token is "▁["
        records[7]["conversations"] += [{"from": "human", "value": "Red?"}, {"from": "gpt", "value": "a dog"}]
    path = folder / "train.json"
    path.write_text(json.dumps(records))
    return path


TRAINING: dict[str, dict[str, Any]] = {
    "align": {"stage": "align"},
    "finetune": {"stage": "finetune", "region_box_embedding": True, "gradient_checkpointing": True},
    "start and end tokens": {"stage": "finetune", "mm_use_im_start_end": True},
    "tiles": {"stage": "finetune", "image_aspect_ratio": "anyres", "image_grid_pinpoints": "[[28,56],[56,28],[56,56]]"},
    "tiles, align": {"stage": "align", "image_aspect_ratio": "anyres"},
}


@slow
@pytest.mark.parametrize("kind", TRAINING)
def test_training_saves_what_loads_back_with_identical_logits(
    family: str, kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tied, as MPT's released models are; a path by which LLaVA would take its MPT class
    own: dict[str, Any] = {"tie_word_embeddings": True} if family == "mpt" else {}
    own |= {"mm_patch_merge_type": "spatial_unpad"} if "tiles" in kind else {}
    own |= ANYRES if kind == "tiles, align" else {}  # what stage 1 writes is loaded on its base, as that is
    base = build_llava(tmp_path / "prompts", family=family, **own)
    options = {"region_encoder": "osprey", "region_encoder_options": json.dumps({"position_grid": 8})}
    arguments = {"version": FAMILIES[family], "per_device_train_batch_size": 4, "num_train_epochs": 2, **options}
    trainer = run(monkeypatch, flags(base, data, tmp_path / "out", **arguments, **TRAINING[kind]))
    trained = trainer.model.eval()
    assert type(trained) is getattr(classes, f"Llava{family.capitalize()}ForCausalLM")
    assert trainer.state.global_step == 4
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    assert np.isfinite(losses).all()

    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")
    assert type(model) is type(trained)
    model.get_vision_tower().half().float()  # as LLaVA rounds it for a run without bf16
    batch = trainer.batch_of_all
    with torch.no_grad():
        expected, found = trained(**copy.deepcopy(batch)), model(**batch)
    assert torch.equal(expected.logits, found.logits)
    before, after = classes.ByModelType.from_pretrained(str(base)).state_dict(), trained.state_dict()
    changed = {name for name in before if "_tower" not in name and not torch.equal(after[name], before[name])}
    assert bool(changed) == (TRAINING[kind]["stage"] == "finetune")
    assert any(name.endswith("image_newline") for name in changed) == (kind == "tiles")
    query = Query(data.parent / "0.png", "What is in <region>?", [Region.box(5, 5, 40, 40)])
    assert len(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=2)) == 1


@slow
def test_training_on_tiles_says_what_is_missing(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = {"stage": "align", "image_aspect_ratio": "anyres"}
    with pytest.raises(ValueError, match="anyres needs --image_grid_pinpoints"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path, **tiles))
    tiles |= {"image_grid_pinpoints": "[[28, 56], [56, 56]]"}
    with pytest.raises(ValueError, match=r"spatial_unpad needs image_newline, .* this checkpoint lacks"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path, **tiles, mm_patch_merge_type="spatial_unpad"))
    with pytest.raises(ValueError, match=r"train\.json line 1 .*its first answer ends at position \d+, .* is 150"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path, **tiles, model_max_length=150))
