"""Region tokens land where <region> stands: LLaVA's splice with marks against a loop over samples and regions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pvit_ext
from pvit_ext import Region, RegionConfig, RegionError
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.injection import BoundRegions, bind_to_images, mark_regions

IMAGE, REGION, IGNORE = -200, -300, -100
SIZE = (40, 20)


@pvit_ext.register_region_encoder("test_boxes")
class BoxesAsFeatures(RegionEncoder):
    """Token t of a region is its normalised box plus t; ``layers`` makes it ask for feature maps."""

    name: ClassVar[str] = "test_boxes"
    feature_dim = 4

    def __init__(self, config: RegionConfig, tower_config: Any = None) -> None:
        super().__init__()
        self.tokens_per_region = config.encoder_options.get("tokens", 1)
        self.feature_layers = tuple(config.encoder_options.get("layers", ()))

    def forward(self, inputs: RegionInputs) -> Tensor:
        steps = torch.arange(self.tokens_per_region, device=inputs.boxes.device)
        return inputs.boxes_norm[:, None] + steps[None, :, None]


@dataclass
class Sample:
    """Pieces: a token id, "I" for an image, or a Region."""

    pieces: list[Any]

    @property
    def ids(self) -> list[int]:
        return [REGION if isinstance(p, Region) else IMAGE if p == "I" else p for p in self.pieces]

    @property
    def regions(self) -> list[Region]:
        return [piece for piece in self.pieces if isinstance(piece, Region)]


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
                Region.box(x, y, x + 1 + draw(number), y + 1 + draw(number), image=draw(st.integers(0, images - 1)))
            )
    return Sample(pieces)


def collate(batch: list[Sample], left: bool, pad: int = 0) -> dict[str, Any]:
    """Model inputs, padded at one side, with labels that are the position, so that each is recognisable."""
    width = max(len(sample.ids) for sample in batch) + pad
    ids, mask, labels = (torch.zeros(len(batch), width, dtype=torch.long) for _ in range(3))
    labels.fill_(IGNORE)
    for row, sample in enumerate(batch):
        start = width - len(sample.ids) if left else 0
        here = slice(start, start + len(sample.ids))
        ids[row, here], mask[row, here] = torch.tensor(sample.ids), 1
        labels[row, here] = torch.tensor(
            [100 + n if isinstance(p, int) else IGNORE for n, p in enumerate(sample.pieces)]
        )
    count = sum(max(sample.pieces.count("I"), 1) for sample in batch)
    return {
        "input_ids": ids,
        "attention_mask": mask.bool(),
        "labels": labels,
        "images": torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(7)),
        "image_sizes": [SIZE] * count,
        "regions": [sample.regions or None for sample in batch],
    }


def prepare(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(embeds, labels, mask)."""
    inputs = {"position_ids": None, "past_key_values": None, "labels": None, "attention_mask": None, **inputs}
    _, _, mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(**inputs)
    return embeds, labels, mask


def region_rows(model: Any, region: Region) -> list[Tensor]:
    """The rows of one region, computed on its own."""
    (x0, y0), (x1, y1) = region.points
    box = torch.tensor([x0 / SIZE[0], y0 / SIZE[1], x1 / SIZE[0], y1 / SIZE[1]])
    projector = model.get_model().region_projector
    rows = [projector.features(box + t) for t in range(model.region_config.tokens_per_region)]
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


def configure(model: Any, tokens: int = 1, **options: Any) -> None:
    torch.manual_seed(0)
    pvit_ext.attach(model, RegionConfig("test_boxes", encoder_options={"tokens": tokens}, **options))


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


BOX = Region.box(1, 2, 10, 12)
OTHER = Region.box(20, 4, 30, 18)


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


def test_anyres_tiles_with_an_encoder_that_reads_them_is_an_error(model: Any) -> None:
    pvit_ext.attach(model, RegionConfig("test_boxes", encoder_options={"layers": [-2]}))
    inputs = collate([Sample(["I", 5, BOX])], left=False)
    with pytest.raises(RegionError, match=r"ran on 3 pictures for 1 image.*image_aspect_ratio=pad"):
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


def bad(pieces: list[Any], **changes: Any) -> dict[str, Any]:
    return collate([Sample(["I", 5, BOX]), Sample(pieces)], left=False) | changes


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (bad(["I", 5, BOX, OTHER], regions=[[BOX], [BOX]]), r"sample 1: 2 <region>.*1 regions"),
        (bad(["I", 5, BOX], regions=[[BOX], None]), r"sample 1: 1 <region>.*0 regions"),
        (bad(["I", 5], regions=[[BOX], [OTHER]]), r"sample 1: 0 <region>.*1 regions"),
        (bad(["I", 5, BOX], regions=[[BOX]]), r"regions holds 1 samples, input_ids 2"),
        (bad([5, BOX]), r"sample 1, region 0: lies on image 0, the prompt has 0 image"),
        (bad(["I", replace(BOX, image=1)]), r"sample 1, region 0: lies on image 1, the prompt has 1 image"),
        (bad(["I", replace(BOX, image=-1)]), r"sample 1, region 0: lies on image -1"),
        (bad(["I", BOX], image_sizes=None), r"sample 0, region 0: image_sizes must give"),
        (bad(["I", BOX], image_sizes=[SIZE]), r"sample 1, region 0: image_sizes must give"),
        (bad(["I", BOX, Region.box(50, 2, 60, 12)]), r"sample 1, region 1: box .* outside its image"),
        (bad(["I", BOX], images=None), r"regions were given, but no images"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_misfits_name_the_sample(model: Any, inputs: dict[str, Any], message: str, training: bool) -> None:
    configure(model)
    model.train(training)
    with pytest.raises(RegionError, match=message):
        model(**inputs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("regions", [None, [None, None], [[], []]])
def test_sentinel_without_regions(model: Any, training: bool, regions: Any) -> None:
    configure(model)
    model.train(training)
    with pytest.raises(RegionError, match="<region>"):
        model(**bad(["I", BOX], regions=regions))
    with pytest.raises(RegionError, match="<region>"):
        model.generate(
            bad(["I", BOX])["input_ids"], images=bad(["I", BOX])["images"], regions=regions, max_new_tokens=1
        )


def test_sentinel_without_images_or_regions(model: Any) -> None:
    with pytest.raises(RegionError, match="no regions were given"):
        model(torch.tensor([[5, REGION]]))
    with pytest.raises(RegionError, match="no regions were given"):
        model.generate(torch.tensor([[5, REGION]]), max_new_tokens=1)


def test_regions_without_an_encoder(llava_checkpoint: Path) -> None:
    plain = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")[1]
    for call in (plain, plain.generate):
        inputs = {key: value for key, value in bad(["I", BOX]).items() if key != "labels"}
        with pytest.raises(RegionError, match=r"no region encoder: pvit_ext.attach"):
            call(inputs.pop("input_ids"), **inputs)


@pytest.mark.parametrize("extra", [None, [], [None, None], [{}, {}]])
def test_missing_extra_says_what_to_pass(loaded: Any, extra: Any) -> None:
    inputs = collate([Sample([3]), Sample(["I", 5, BOX])], left=False)
    with pytest.raises(
        RegionError, match=r"^sample 1, region 0, image 1 of the batch: .*'regionclip'.*pass region_extra="
    ):
        loaded[1](**inputs, region_extra=extra)


def test_extra_may_be_missing_for_images_without_regions(loaded: Any) -> None:
    extra = [None, {"pixels": torch.zeros(3, 32, 64, dtype=torch.uint8)}]
    loaded[1](**collate([Sample([3]), Sample(["I", 5, BOX])], left=False), region_extra=extra)


# Units


def test_bind_counts_the_image_that_a_text_only_sample_takes() -> None:
    ids = torch.tensor([[5, 6, 7], [IMAGE, REGION, 5], [IMAGE, IMAGE, REGION]])
    regions = [None, [BOX], [replace(OTHER, image=1)]]
    bound = bind_to_images(ids, None, regions, [SIZE] * 4)
    assert isinstance(bound, BoundRegions)
    assert bound.image_index == [1, 3]
    assert bound.owners == ["sample 1, region 0", "sample 2, region 0"]


def test_marks_skip_padding_and_number_regions_through_the_batch() -> None:
    ids = torch.tensor([[0, 5, REGION], [REGION, REGION, 0]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    batch = mark_regions(ids, None, mask, 2)
    assert batch.input_ids.tolist() == [[5, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100, -10000, -10001, -100], [-10002, -10003, -10004, -10005]]
    assert batch.attention_mask.tolist() == [[True, True, True, False], [True] * 4]
