"""Region tokens land where <region> stands: LLaVA's splice with marks against a loop over samples and regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pvit_ext
from pvit_ext import Region, RegionConfig, RegionError
from pvit_ext.hosts.llava.splice import mark_regions
from pvit_ext.tokens.binding import BoundRegions, bind_to_images
from tests.samples import BOX, IGNORE, IMAGE, OTHER, REGION, SIZE, Sample, collate, configure, prepare


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    images = draw(st.integers(0, 3))
    kinds = draw(st.lists(st.sampled_from("tttR" if images else "t"), max_size=9))
    kinds = draw(st.permutations(kinds + ["I"] * images)) or ["t"]
    number = st.integers(0, 9)
    pieces: list[Any] = []
    for kind in kinds:
        if kind == "t":
            pieces.append(draw(st.integers(3, 300)))
        elif kind == "I":
            pieces.append("I")
        else:
            x, y = draw(number), draw(number)
            pieces.append(
                Region.box(x, y, x + 2 + draw(number), y + 2 + draw(number), image=draw(st.integers(0, images - 1)))
            )
    return Sample(pieces)


def region_rows(model: Any, region: Region) -> list[Tensor]:
    """The rows of one region, computed on its own."""
    (x0, y0), (x1, y1) = region.points
    box = torch.tensor([x0 / SIZE[0], y0 / SIZE[1], x1 / SIZE[0], y1 / SIZE[1]])
    projector = model.get_model().region_projector
    rows = [projector.features(box + t) for t in range(model.region_module.facts.tokens_per_region)]
    if projector.box_embedding is not None:
        rows = [row + projector.box_embedding(box[None])[0] for row in rows]
    ends = [] if projector.delimiters is None else list(projector.delimiters.weight)
    return [*ends[:1], *rows, *ends[1:]]


def by_loop(model: Any, batch: list[Sample], images: Tensor, left: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What prepare() has to return, by a loop over samples and pieces."""
    features, embed = model.encode_images(images), model.get_input_embeddings()
    rows_of, labels_of = [], []
    image = 0
    for sample in batch:
        rows: list[Tensor] = []
        labels: list[int] = []
        for number, piece in enumerate(sample.pieces):
            if isinstance(piece, Region):
                new, label = region_rows(model, piece), IGNORE
            elif piece == "I":
                new, label = list(features[image]), IGNORE
                image += 1
            else:
                new, label = [embed.weight[piece]], 100 + number
            rows += new
            labels += [label] * len(new)
        image += "I" not in sample.pieces
        rows_of.append(torch.stack(rows))
        labels_of.append(torch.tensor(labels))
    width = max(len(rows) for rows in rows_of)
    pads = [(width - len(rows), 0) if left else (0, width - len(rows)) for rows in rows_of]
    pad = torch.nn.functional.pad
    embeds = torch.stack([pad(rows, (0, 0, *p)) for rows, p in zip(rows_of, pads, strict=True)])
    labels = torch.stack([pad(row, p, value=IGNORE) for row, p in zip(labels_of, pads, strict=True)])
    mask = torch.stack([pad(torch.ones(len(row)), p) for row, p in zip(rows_of, pads, strict=True)]).bool()
    return embeds, labels, mask


@pytest.fixture(scope="module")
def model(llava_checkpoint: Path) -> Any:
    return pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=RegionConfig("test_boxes"), device="cpu"
    )[1]


@pytest.fixture(autouse=True)
def _settings(model: Any) -> Any:
    yield
    model.eval()
    model.zero_grad()
    model.config.tokenizer_padding_side, model.config.tokenizer_model_max_length = "right", 512


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.lists(samples(), min_size=1, max_size=4),
    tokens=st.integers(1, 4),
    delimiters=st.booleans(),
    box_embedding=st.booleans(),
    sides=st.tuples(st.booleans(), st.booleans()),
    training=st.booleans(),
)
def test_splice_equals_loop(
    model: Any,
    batch: list[Sample],
    tokens: int,
    delimiters: bool,
    box_embedding: bool,
    sides: tuple[bool, bool],
    training: bool,
) -> None:
    configure(model, tokens, delimiters=delimiters, box_embedding=box_embedding)
    if box_embedding:
        torch.nn.init.normal_(model.get_model().region_projector.box_embedding.weight)
    model.config.tokenizer_padding_side = "left" if sides[1] else "right"
    model.train(training)
    inputs = collate(batch, left=sides[0], pad=2)
    with torch.no_grad():
        embeds, labels, mask = prepare(model, inputs)
        expected, expected_labels, expected_mask = by_loop(model, batch, inputs["images"], sides[1])
    assert torch.equal(labels, expected_labels)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(embeds, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.long, torch.float32])
def test_mask_keeps_its_dtype(model: Any, mask_dtype: torch.dtype) -> None:
    configure(model)
    inputs = collate([Sample(["I", 5, BOX])], left=False)
    assert prepare(model, inputs | {"attention_mask": inputs["attention_mask"].to(mask_dtype)})[2].dtype == mask_dtype


def test_without_mask_and_labels(model: Any) -> None:
    configure(model)
    inputs = collate([Sample(["I", 5, BOX, 7]), Sample([OTHER, "I", 9, 8])], left=False)
    bare = {key: value for key, value in inputs.items() if key not in ("attention_mask", "labels")}
    embeds, labels, mask = prepare(model, bare)
    assert labels is None
    assert mask.all()
    assert torch.equal(embeds, prepare(model, inputs)[0])


def test_position_ids_count_the_region_rows(model: Any) -> None:
    configure(model, tokens=3, delimiters=False)
    inputs = collate([Sample(["I", 5, BOX, 7]), Sample([1, 2, 3, 4])], left=False)
    position_ids = torch.arange(4)[None]
    out = model.prepare_inputs_labels_for_multimodal(past_key_values=None, position_ids=position_ids, **inputs)
    assert out[1].tolist() == [list(range(16 + 5)), [0, 1, 2, 3, *[0] * 17]]


@pytest.mark.parametrize("images", ["list", "5-D"])
def test_images_as_list_or_5d(model: Any, images: str) -> None:
    configure(model)
    inputs = collate([Sample(["I", 5, BOX]), Sample([3]), Sample(["I", OTHER, 4])], left=False)
    expected = prepare(model, inputs)[0]
    given = list(inputs["images"]) if images == "list" else inputs["images"][:, None]
    assert torch.equal(prepare(model, inputs | {"images": given})[0], expected)


def test_anyres_tiles_with_an_encoder_that_reads_no_tower_features(model: Any) -> None:
    configure(model)
    inputs = collate([Sample(["I", 5, BOX]), Sample(["I", 4])], left=False)
    embeds, _, _ = prepare(model, inputs | {"images": inputs["images"][:, None].repeat(1, 3, 1, 1, 1)})
    assert embeds.shape[1] == 3 * 16 + 1 + 3
    rows = torch.stack(region_rows(model, BOX))
    torch.testing.assert_close(embeds[0, 49:], rows)


def test_tiles_of_a_model_without_anyres_are_an_error(model: Any) -> None:
    pvit_ext.attach(model, RegionConfig("test_boxes", encoder_options={"layers": [-2]}))
    inputs = collate([Sample(["I", 5, BOX])], left=False)
    with pytest.raises(RegionError, match=r"^image 0 .* ran on 3 crops, .*'pad' makes 1 of 40x20 pixels"):
        prepare(model, inputs | {"images": inputs["images"][:, None].repeat(1, 3, 1, 1, 1)})


# Gradients


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_tokens_and_only_their_rows(model: Any, checkpointing: bool) -> None:
    configure(model, tokens=2)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
    inputs = collate([Sample(["I", 5, BOX, 7]), Sample([9, 11]), Sample([OTHER, BOX, "I", 13])], left=False)
    inputs["labels"] = torch.where(inputs["input_ids"] > 0, inputs["input_ids"], IGNORE)
    model(**inputs).loss.backward()
    if checkpointing:
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
    rows = model.get_input_embeddings().weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(rows) <= {5, 7, 9, 11, 13}
    assert {5, 9} <= set(rows)  # row 0, the id under every region row, is not among them
    for name, parameter in model.get_model().region_projector.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_of_each_row_belongs_to_its_region(model: Any) -> None:
    configure(model, tokens=2, delimiters=False)
    tokens = torch.randn(3, 2, 48, requires_grad=True)
    inputs = collate([Sample(["I", 5, BOX, OTHER]), Sample([BOX, "I"])], left=False)
    model.encode_regions = lambda _: tokens
    try:
        embeds, _, _ = prepare(model, inputs)
    finally:
        del model.encode_regions
    weight = torch.arange(embeds.shape[1], dtype=torch.float32)
    (embeds.sum(2) * weight * torch.tensor([[1.0], [100.0]])).sum().backward()
    expected = torch.tensor([[17.0, 18.0], [19.0, 20.0], [0.0, 100.0]])
    assert torch.equal(tokens.grad, expected[:, :, None].expand(3, 2, 48))


# Errors


def test_truncation_that_cuts_a_region_names_it(model: Any) -> None:
    configure(model, tokens=2)  # 4 rows a region
    model.config.tokenizer_model_max_length = 16 + 1 + 4 + 3
    inputs = collate([Sample([5, 6]), Sample(["I", 5, BOX, OTHER, 7]), Sample(["I", OTHER])], left=False)
    with pytest.raises(RegionError, match=r"^sample 1, region 1: cut off.* maximum of 24;.*tokenizer_model_max_length"):
        prepare(model, inputs)
    model.config.tokenizer_model_max_length += 1
    assert prepare(model, inputs)[0].shape[1] == 25


def test_truncation_names_every_region_it_cuts(model: Any) -> None:
    configure(model)
    model.config.tokenizer_model_max_length = 16
    inputs = collate([Sample([BOX, "I", OTHER]), Sample(["I", BOX])], left=False)
    with pytest.raises(RegionError, match=r"^sample 0, region 1; sample 1, region 0: cut off"):
        prepare(model, inputs)


# Units


def test_bind_counts_the_image_that_a_text_only_sample_takes() -> None:
    ids = torch.tensor([[5, 6, 7], [IMAGE, REGION, 5], [IMAGE, IMAGE, REGION]])
    regions = [None, [BOX], [replace(OTHER, image=1)]]
    bound = bind_to_images(ids, None, regions, [SIZE] * 4)
    assert isinstance(bound, BoundRegions)
    assert bound.image_index == [1, 3]
    assert [region.name for region in bound.regions] == ["sample 1, region 0", "sample 2, region 0"]


def test_marks_skip_padding_and_number_regions_through_the_batch() -> None:
    ids = torch.tensor([[0, 5, REGION], [REGION, REGION, 0]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    batch = mark_regions(ids, None, mask, 2)
    assert batch.input_ids.tolist() == [[5, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100, -10000, -10001, -100], [-10002, -10003, -10004, -10005]]
    assert batch.attention_mask.tolist() == [[True, True, True, False], [True] * 4]
