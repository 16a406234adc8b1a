"""ask() and generate(regions=...): equal to recomputation without a cache, equal batched and alone, nothing lost."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.hosts.llava import batch as batch_module
from pvit_ext.hosts.llava import chat as chat_module
from pvit_ext.hosts.llava.batch import collate
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.tokens.processor import RegionProcessor
from tests.tiny import TINY_REGIONCLIP

OPTIONS = {**TINY_REGIONCLIP, "shortest_edge": 32, "longest_edge": 64}
Loaded = tuple[Any, Any, Any]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


WIDE, TALL, SQUARE = photo(60, 40, 1), photo(30, 50, 2), photo(40, 40, 3)
BOX, OTHER = Region.box(3, 4, 20, 30), Region.box(10, 2, 29, 38)

MIXED = [
    Query(WIDE, "What is <region> doing with <region>?", [BOX, Region.point(30, 30)]),
    Query(WIDE, "Describe the image."),
    Query([TALL, SQUARE], "Compare <region> with <region>.", [OTHER, Region.box(0, 0, 40, 20, image=1)]),
    Query(None, "What is this?"),
    Query(TALL, "And <region>?", [OTHER, BOX], history=[("What is in <region>?", "a dog"), ("Red?", "blue")][:1]),
    Query([SQUARE, TALL], "These <image> with <image>: the <region>?", [Region.box(1, 2, 25, 45, image=1)]),
    Query(SQUARE, "Compare <Region><L100><L200><L700><L800></Region> with <region>", [BOX]),
]


@pytest.fixture(scope="module")
def tiny(llava_checkpoint: Path) -> Loaded:
    torch.manual_seed(1)
    config = RegionConfig("regionclip", encoder_options=OPTIONS, box_embedding=True)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=config, device="cpu"
    )
    inner = model.get_model()
    for module in (inner.layers, inner.region_projector, inner.mm_projector):  # at their start all answers are alike
        for parameter in module.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    model.lm_head.weight.data[:259] = 0  # bytes, which decode to nothing readable
    return model, tokenizer, processor


@pytest.fixture
def calls(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every generate()."""
    seen: list[dict[str, Any]] = []
    generate = type(tiny[0]).generate

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(kwargs))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny[0]), "generate", spy)
    return seen


def new(ids: torch.Tensor) -> list[int]:
    """Generated ids; transformers 4.36 and 4.37 put BOS before them when the prompt goes in as embeddings."""
    return ids[int(Version(transformers.__version__) < Version("4.38")) :].tolist()


def recompute(model: Any, batch: dict[str, Any], steps: int) -> list[int]:
    """Greedy decoding of one prompt by a full forward pass per token."""
    ids = batch["inputs"]
    rest = {key: batch[key] for key in ("images", "image_sizes", "regions", "region_extra")}
    new: list[int] = []
    with torch.no_grad():
        while len(new) < steps and (not new or new[-1] != 2):
            prompt = torch.cat((ids, torch.tensor([new], dtype=torch.long)), dim=1)
            new.append(int(model(prompt, **rest).logits[0, -1].argmax()))
    return new


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


def test_regions_change_the_answer(tiny: Loaded) -> None:
    boxes = [Region.box(0, 3, 9, 35), Region.box(25, 3, 55, 12), Region.box(50, 30, 60, 40)]
    queries = [Query(WIDE, "<region>" * 8, [box] * 8) for box in boxes]
    answers = pvit_ext.ask(*tiny, queries, max_new_tokens=8)
    assert len(set(answers)) == 3


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batched_equals_alone(tiny: Loaded, batch_size: int) -> None:
    alone = [pvit_ext.ask(*tiny, [query], max_new_tokens=6)[0] for query in MIXED]
    assert pvit_ext.ask(*tiny, MIXED, max_new_tokens=6, batch_size=batch_size) == alone
    order = [5, 3, 0, 6, 2, 4, 1]
    shuffled = pvit_ext.ask(*tiny, [MIXED[i] for i in order], max_new_tokens=6, batch_size=batch_size)
    assert shuffled == [alone[i] for i in order]


def test_beams_and_sampling_take_regions(tiny: Loaded) -> None:
    assert len(pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, num_beams=2)) == 3
    torch.manual_seed(0)
    assert len(pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, do_sample=True)) == 3


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True}])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_several_answers_a_query_are_a_list_each(tiny: Loaded, options: dict[str, Any], batch_size: int) -> None:
    torch.manual_seed(0)
    answers = pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, batch_size=batch_size, num_return_sequences=2, **options)
    assert [len(one) for one in answers] == [2, 2, 2]
    if "num_beams" in options:
        best = pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, **options)
        assert [one[0] for one in answers] == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_dict_in_generate": True}, r"does not take return_dict_in_generate=: call model.generate"),
        ({"output_scores": True}, r"does not take output_scores=: call model.generate"),
        ({"max_length": 9}, r"does not take max_length=: .*max_new_tokens="),
        ({"eos_token_id": 2}, r"does not take eos_token_id=: .*stopping_criteria="),
        ({"pad_token_id": 2}, r"does not take pad_token_id="),
        ({"attention_mask": None}, r"does not take attention_mask=: the queries give the prompts"),
        ({"inputs": None}, r"does not take inputs="),
        ({"regions": [[BOX]]}, r"does not take regions=: .*Query\(image, text, regions\)"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temprature": 1.0}, "temprature"),
    ],
)
def test_arguments_of_generate_that_ask_cannot_pass_on(tiny: Loaded, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        pvit_ext.ask(*tiny, MIXED[:1], max_new_tokens=1, **options)


def test_criteria_of_the_caller_come_beside_the_templates(tiny: Loaded, calls: list[Any]) -> None:
    stop_soon = transformers.StoppingCriteriaList([lambda ids, scores, **_: torch.tensor(len(new(ids[0])) >= 5)])
    answers = ask_saying(tiny, calls, "llava_v0", "a cat and a dog", stopping_criteria=stop_soon)
    assert answers[0] != "a cat and a dog"
    assert ask_saying(tiny, calls, "llava_v0", "seven### Human", stopping_criteria=stop_soon)[0] == "seven"


def test_a_generation_config_decides_about_sampling(tiny: Loaded) -> None:
    own = transformers.GenerationConfig(do_sample=True, num_return_sequences=2, temperature=0.7, bos_token_id=1)
    (answers,) = pvit_ext.ask(*tiny, MIXED[:1], max_new_tokens=3, generation_config=own)  # two of greedy are an error
    assert len(answers) == 2


def test_objects_in_another_order_or_of_another_kind(tiny: Loaded) -> None:
    model, tokenizer, processor = tiny
    with pytest.raises(TypeError, match=r"got a \w+ as the model; load it with pvit_ext.load_pretrained_model"):
        pvit_ext.ask(tokenizer, model, processor, MIXED[:1])
    with pytest.raises(TypeError, match=r"queries is Query.*; give a list"):
        pvit_ext.ask(*tiny, MIXED[0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="query 1 is str 'What'; give Query"):
        pvit_ext.ask(*tiny, [MIXED[0], "What"])  # type: ignore[list-item]


def test_array_bytes_and_lists_of_numbers(tiny: Loaded, tmp_path: Path) -> None:
    WIDE.save(tmp_path / "wide.png")
    content = (tmp_path / "wide.png").read_bytes()
    places: list[Any] = [WIDE, np.asarray(WIDE), content, io.BytesIO(content)]
    queries = [Query(place, "What is <region>?", [3, 4, 20, 30]) for place in places]
    answers = pvit_ext.ask(*tiny, [*queries, Query(WIDE, "What is <region>?", BOX)], max_new_tokens=6)
    assert len(set(answers)) == 1
    with pytest.raises(RegionError, match=r"^query 1: cannot read its image: .*float64") as raised:
        pvit_ext.ask(*tiny, [queries[0], Query(np.zeros((900, 900, 3)), "Red?")])
    assert len(str(raised.value)) < 400


def test_no_queries(tiny: Loaded) -> None:
    assert pvit_ext.ask(*tiny, []) == []


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


def test_paths_and_pictures_give_the_same(tiny: Loaded, tmp_path: Path) -> None:
    WIDE.save(tmp_path / "wide.png")
    places: list[Any] = [WIDE, tmp_path / "wide.png", str(tmp_path / "wide.png"), [WIDE]]
    answers = pvit_ext.ask(*tiny, [Query(place, "What is <region>?", [BOX]) for place in places], max_new_tokens=6)
    assert len(set(answers)) == 1


def test_turned_picture_is_upright_for_regions(tiny: Loaded, tmp_path: Path) -> None:
    """A tall photograph stored on its side with EXIF orientation 6, as phones do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    TALL.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    region = Region.box(2, 31, 28, 49)  # outside the 50x30 picture as stored
    answers = pvit_ext.ask(
        *tiny,
        [Query(image, "What is <region>?", [region]) for image in (TALL, tmp_path / "turned.png")],
        max_new_tokens=6,
    )
    assert answers[0] == answers[1]
    assert Query(tmp_path / "turned.png", "").image_sizes() == [TALL.size]


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


# Where an answer ends


def saying(tiny: Loaded, *texts: str) -> Callable[..., torch.Tensor]:
    """A stand-in for the language model's step: row k says text k, then its last token for ever."""
    tokenizer = tiny[1]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]

    def process(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        said = new(input_ids[0])
        wanted = torch.tensor([row[min(len(said), len(row) - 1)] for row in ids])
        return torch.full_like(scores, -1e4).scatter(1, wanted[:, None], 0.0)

    return process


def ask_saying(tiny: Loaded, calls: list[Any], conv: str, *texts: str, **kwargs: Any) -> list[str]:
    from transformers import LogitsProcessorList

    queries = [Query(WIDE, "What is <region>?", [BOX])] * len(texts)
    script = LogitsProcessorList([saying(tiny, *texts)])
    return pvit_ext.ask(*tiny, queries, max_new_tokens=40, conv_version=conv, logits_processor=script, **kwargs)


@pytest.mark.parametrize(
    ("conv", "said", "answer"),
    [
        ("llava_v0", ["seven### Human: red###", "a cat and a dog### x###"], ["seven", "a cat and a dog"]),
        ("v1", ["seven</s>", "a cat and a dog</s>"], ["seven", "a cat and a dog"]),
        ("v1", ["seven ### red</s>", "dog</s>"], ["seven ### red", "dog"]),
        ("mistral_instruct", ["seven</s>", "dog</s>"], ["seven", "dog"]),
        ("plain", ["seven\nred", "dog\ncat"], ["seven", "dog"]),
    ],
)
def test_stop_strings(tiny: Loaded, calls: list[Any], conv: str, said: list[str], answer: list[str]) -> None:
    assert ask_saying(tiny, calls, conv, *said) == answer
    assert [ask_saying(tiny, calls, conv, one)[0] for one in said] == answer


@pytest.mark.parametrize("others", [[], ["a cat</s>"], ["a cat and a dog", "a cat###"]])
def test_generation_ends_when_every_row_has(tiny: Loaded, monkeypatch: pytest.MonkeyPatch, others: list[str]) -> None:
    tokenizer, lengths = tiny[1], []
    decode = tokenizer.batch_decode
    monkeypatch.setattr(
        type(tokenizer), "batch_decode", lambda self, ids, **k: lengths.append(len(new(ids[0]))) or decode(ids, **k)
    )
    ask_saying(tiny, [], "llava_v0", "seven### Human: red", *others)
    ends = max(len(tokenizer(text, add_special_tokens=False).input_ids) for text in ("seven###", *others))
    assert lengths[-1] == (40 if "a cat and a dog" in others else ends)


def test_stop_token_of_its_own(tiny: Loaded) -> None:
    tokenizer = tiny[1]
    assert chat_module.stops(tokenizer, "</s>") == ([2], [])
    assert chat_module.stops(tokenizer, "")[0] == [2]

    class WithAdded:
        eos_token, eos_token_id = "</s>", 2

        def get_added_vocab(self) -> dict[str, int]:
            return {"<|im_end|>": 77}

        def convert_tokens_to_ids(self, token: str) -> int:
            return self.get_added_vocab()[token]

    assert chat_module.stops(WithAdded(), "<|im_end|>") == ([2, 77], [])


# Errors

FINE = Query(WIDE, "What is <region>?", [BOX])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(WIDE, "What is <region>?"), "query 2: 1 <region> placeholders but 0 regions"),
        (Query(WIDE, "What is it?", [BOX]), "query 2: 0 <region> placeholders but 1 regions"),
        (Query(None, "What is <region>?", [BOX]), r"query 2, region 0: lies on image 0, the sample has 0 image"),
        (Query(WIDE, "<region>?", [Region.box(0, 0, 9, 9, image=1)]), r"query 2, region 0: lies on image 1"),
        (
            Query(WIDE, "<region> <region>?", [BOX, Region.box(70, 0, 90, 9)]),
            r"query 2, region 1: box .*outside its image",
        ),
        (Query(WIDE, "<region>?", [Region.mask(np.ones((3, 3)))]), r"query 2, region 0: mask is 3x3, its image 60x40"),
        (Query(WIDE, "<Region>five</Region>?"), r"query 2: malformed region"),
        (Query(WIDE, "<image> and <image>?"), r"query 2: 2 <image> in the text, 1 image"),
        (Query(WIDE, "<region>? " + "red " * 600, [BOX]), r"query 2: its prompt takes .* positions, .* is 512"),
        (Query(WIDE, "red " * 600), r"query 2: its prompt takes .* positions, .* is 512"),
    ],
)
def test_errors_name_the_query(tiny: Loaded, calls: list[Any], query: Query, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        pvit_ext.ask(*tiny, [FINE, FINE, query], batch_size=3)
    assert not calls


def test_bad_query_of_a_later_batch_stops_before_the_first(tiny: Loaded, calls: list[Any]) -> None:
    with pytest.raises(RegionError, match="query 2"):
        pvit_ext.ask(*tiny, [FINE, FINE, Query(WIDE, "<region>", [Region.box(70, 0, 90, 9)])], batch_size=1)
    assert not calls


def test_errors_of_the_model_name_the_query(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    show = RegionProcessor.show
    monkeypatch.setattr(RegionProcessor, "show", lambda *given: replace(show(*given), extra=[None]))
    with pytest.raises(RegionError, match=r"^query 3, region 0, .*region_extra="):
        pvit_ext.ask(*tiny, [Query(WIDE, "Red?")] * 3 + [FINE], batch_size=2)


@pytest.mark.parametrize("content", [None, b"", b"no image", "cut"])
def test_unreadable_image_names_the_query(tiny: Loaded, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "photo.png"
    if content == "cut":
        WIDE.save(path)
        content = path.read_bytes()[:2000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RegionError, match=r"query 1: cannot read its image: "):
        pvit_ext.ask(*tiny, [FINE, Query(path, "Red?")], max_new_tokens=1)


def test_generate_without_a_prompt(tiny: Loaded) -> None:
    with pytest.raises(RegionError, match=r"pass its ids \(B, L\) as inputs="):
        tiny[0].generate(None, regions=[[BOX]])


# Other models, real questions


def test_model_without_regions_answers_and_refuses_regions(llava_checkpoint: Path) -> None:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")
    plain = [Query(WIDE, "Describe the image."), Query(None, "Red?")]
    answers = pvit_ext.ask(model, tokenizer, processor, plain, max_new_tokens=4)
    with pytest.raises(RegionError, match=r"^query 0: regions were given, but the model has no region encoder: .*swap"):
        pvit_ext.ask(model, tokenizer, processor, [FINE])
    pvit_ext.attach(model, RegionConfig("regionclip", encoder_options=OPTIONS))
    assert pvit_ext.ask(model, tokenizer, processor, plain, max_new_tokens=4) == answers


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
