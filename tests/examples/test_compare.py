"""``pvit-ext compare``: regions that point where they should, its reports on recorded numbers, and a real small run."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from examples.compare import language, regions, report
from examples.compare.rows import pick_rows
from examples.compare.told import Told, symbols, tell, tell_scenes, turns_about
from examples.compare.tower import pixel_targets
from examples.compare.words import PatchWords
from examples.quickstart.language import IGNORE, LlamaTokenizer, new_language_model, text_turn, train_tokenizer
from examples.quickstart.towers import CLIP_SIZE, image_processor
from examples.quickstart.world import ANSWERS_LARGER, ASK_COLOUR, ASK_DIGIT, COLOURS, DIGITS, make_scenes
from pvit_ext import cli
from pvit_ext.cli import compare as compare_command
from pvit_ext.data.records import load_records
from pvit_ext.encoders.base import region_encoder_names
from pvit_ext.encoders.overlay import COLORS
from pvit_ext.regions.view import tower_view

RECORDED: dict[str, Any] = {
    "encoder": "osprey", "boxes": 0.545, "masks": 0.54, "points": 0.51, "small": 0.545, "digit": 0.325,
    "colour": 0.975, "larger": 0.55, "tokens": 2, "parameters": 229120, "trained": 229120, "image_ms_p10": 0.69,
    "image_ms_p50": 1.24, "image_ms_p90": 14.2, "region_ms_p10": -1.7, "region_ms_p50": 1.48, "region_ms_p90": 2.53,
    "train_samples_per_second": 12.3, "stage1_rate": 0.002, "options": '{"position_grid": 28}', "seconds": 623,
    "budget": 1.0, "seed": 0, "train_scenes": 640, "stage1_epochs": 1.0, "stage2_epochs": 2.0, "stage2_rate": 0.001,
    "batch": 16, "smallest_side": 14, "largest_side": 40, "repeats": 40, "device": "a processor", "threads": 2,
    "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "pvit_ext": "0.1.0",
}  # fmt: skip
OTHER = {**RECORDED, "encoder": "text", "boxes": 0.26, "masks": None, "tokens": 0, "parameters": 0, "trained": 0}
OTHER |= {"stage1_rate": None, "options": "{}"}
ROWS = [OTHER, RECORDED]


def test_every_registered_encoder_is_a_row() -> None:
    assert {row.encoder for row in pick_rows(None)} == set(region_encoder_names())
    with pytest.raises(ValueError, match=r"unknown \['opsrey'\]; known: regionclip, .*osprey"):
        pick_rows("regionclip,opsrey")


def test_regions_of_every_kind_lie_on_the_digit(tmp_path: Path) -> None:
    scenes = make_scenes("train", 12, 0, regions.SIDES)
    (tmp_path / "images").mkdir()
    for number, (scene, _) in enumerate(scenes):
        scene.image.save(tmp_path / "images" / f"{number:05d}.jpg")
        for digit in scene.digits:
            box, mask, point = (regions.region_of(kind, digit.box, scene, random.Random(0)) for kind in regions.KINDS)
            assert box.bounds(scene.image.size) == digit.box
            left, top, right, bottom = mask.bounds(scene.image.size)
            assert np.abs(np.subtract((left, top, right, bottom), digit.box)).max() <= 2
            x, y = point.points[0]
            ink = np.asarray(scene.image).astype(int)[int(y), int(x)]
            assert np.abs(ink - COLOURS[digit.colour]).max() <= 120
    regions.write_records(scenes, regions.KINDS, tmp_path / "train.json", 0)
    records = load_records(str(tmp_path / "train.json"), str(tmp_path / "images"))
    found = [region for record in records for region in record.regions]
    assert {region.kind for region in found} == set(regions.KINDS)
    boxes = [box for _, questions in scenes for question in questions for box in question.boxes]
    sizes = [scene.image.size for scene, questions in scenes for question in questions for _ in question.boxes]
    for region, box, size in zip(found, boxes, sizes, strict=True):
        x0, y0, x1, y1 = region.bounds(size)
        assert box[0] - 2 <= x0 < x1 <= box[2] + 2
        assert box[1] - 2 <= y0 < y1 <= box[3] + 2


@pytest.fixture(scope="module")
def told() -> list[Told]:
    return tell_scenes(40, (3, 5), random.Random(0), marked=1.0)


@pytest.fixture(scope="module")
def patches(told: list[Told]) -> torch.Tensor:
    return language.patches_of(image_processor(), told)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, told: list[Told]) -> Any:
    rng, folder = random.Random(1), tmp_path_factory.mktemp("language")
    turns = [text_turn(rng) for _ in range(300)]
    turns += [turn for one in told for turn in turns_about(one, one.scene.digits, rng)]
    train_tokenizer(folder, turns, symbols())
    return LlamaTokenizer.from_pretrained(folder)


def test_coordinates_lead_to_the_digit(told: list[Told]) -> None:
    for one in told:
        size = max(one.scene.image.size)
        corner = [(size - side) / 2 for side in one.scene.image.size]
        for digit in one.scene.digits:
            edges = np.array([value + corner[axis % 2] for axis, value in enumerate(digit.box)]) / size
            box, mask, point = (json.loads(words) for words in one.coordinates[digit.box])
            assert np.abs(box - edges).max() <= 0.0501
            assert np.abs(mask - edges).max() <= 0.0701
            assert (edges[:2] - 0.0501 <= point).all()
            assert (point <= edges[2:] + 0.0501).all()


def test_marks_are_drawn_and_named_in_the_order_of_their_boxes() -> None:
    rng = random.Random(2)
    for plain, _ in make_scenes("train", 12, 0):
        one = tell(plain, rng, marked=1.0)
        pixels, before = np.asarray(one.scene.image), np.asarray(plain.image)
        for (colour, paint), (x0, y0, x1, y1) in zip(COLORS.items(), one.marked, strict=False):
            assert any(f" {colour}-" in name for name in one.marks[(x0, y0, x1, y1)])
            inside = np.s_[int(y0) : int(y1), int(x0) : int(x1)]
            assert ((pixels[inside] == paint).all(2) & (pixels[inside] != before[inside]).any(2)).any()
        assert sum(map(len, one.marks.values())) == len(one.marked) > 0


def test_everything_is_asked_once(told: list[Told]) -> None:
    """A second question about the same thing has its answer in the conversation, and the image is not looked at."""
    for one in told:
        digits = one.scene.digits
        names = {words: digit for digit in digits for words in one.coordinates[digit.box] + one.marks[digit.box]}
        if len(names) < sum(len(one.coordinates[d.box] + one.marks[d.box]) for d in digits):
            continue  # two words are the same, and the test could not tell them apart
        asked = []
        for question, answer in turns_about(one, digits, random.Random(3)):
            for words, digit in names.items():
                if question == ASK_DIGIT.replace("<region>", words):
                    asked.append(("digit", digit.box))
                    assert answer == DIGITS[digit.value]
                elif question == ASK_COLOUR.replace("<region>", words):
                    asked.append(("colour", digit.box))
                    assert answer == digit.colour
        assert sorted(asked) == sorted((what, digit.box) for digit in digits for what in ("digit", "colour"))


def test_targets_lie_on_the_digits(told: list[Told]) -> None:
    processor = image_processor()
    for one in told:
        targets = pixel_targets(processor, one)
        assert targets.shape == (2 + len(COLORS), CLIP_SIZE, CLIP_SIZE)
        assert not targets[2:, targets[0] < 0].any()  # no mark on the background
        view = tower_view(processor, "pad", one.scene.image.size)
        for digit in one.scene.digits:
            x0, y0, x1, y1 = view.map_boxes(torch.tensor([digit.box]))[0].tolist()
            middle = targets[:, int((y0 + y1) / 2), int((x0 + x1) / 2)].tolist()
            marks = [number for number, box in enumerate(one.marked) if box == digit.box]
            assert middle[:2] == [digit.value, list(COLOURS).index(digit.colour)]
            assert [number for number, there in enumerate(middle[2:]) if there] == marks


def test_a_patch_is_the_sum_of_its_words(patches: torch.Tensor, tokenizer: Any) -> None:
    words, embedding = PatchWords(tokenizer), torch.randn(len(tokenizer), 96)
    position, mark = words.position(embedding), words.mark(embedding)
    summed = words.embed(embedding, patches, position, mark)
    background = patches[..., 0] < 0
    torch.testing.assert_close(summed[background], position.expand_as(summed)[background])
    assert (position[:, None] - position).norm(dim=2).fill_diagonal_(1).min() > 0.1  # no position is another
    for scene, patch in (~background).nonzero().tolist():
        digit, colour, *marks = patches[scene, patch].tolist()
        name = f"\u2581{list(COLOURS)[colour]}{DIGITS[digit]}"
        rest = summed[scene, patch] - position[patch] - torch.tensor(marks).float() @ mark
        torch.testing.assert_close(rest, embedding[tokenizer.convert_tokens_to_ids(name)], atol=1e-4, rtol=0)


@pytest.fixture
def maker(tokenizer: Any) -> language.RowMaker:
    return language.RowMaker(tokenizer, torch.randn(len(tokenizer), 96), random.Random(4))


def test_probes_ask_for_the_word_that_follows(maker: language.RowMaker, patches: torch.Tensor) -> None:
    for scene in patches[(patches[..., 0] >= 0).any(1)]:
        rows, labels = maker.probe(scene, background=3)
        asked = (labels != IGNORE).nonzero()[:, 0]
        assert len(rows) == len(labels)
        assert len(asked) >= min((scene[:, 0] >= 0).sum(), language.PROBES)
        for number in asked.tolist():
            query = rows[number - 1]
            position = (maker.position == query).all(1).nonzero()[:, 0].tolist()
            mark = (maker.mark == query).all(1).nonzero()[:, 0].tolist()
            under = [
                at
                for at, patch in enumerate(scene.tolist())
                if patch[0] >= 0 and (at in position or (mark and patch[2 + mark[0]]))
            ]
            assert int(labels[number]) in {int(maker.words.thing(scene[at])) for at in under}


def test_conversations_are_about_digits_under_patches(
    maker: language.RowMaker, told: list[Told], patches: torch.Tensor
) -> None:
    hidden = 0
    for one, scene in zip(told, patches, strict=True):
        rows, labels = maker.conversation(one, scene, background=2)
        assert rows.shape == (len(labels), 96)
        shown = language.digits_in(one, scene)
        hidden += len(one.scene.digits) - len(shown)
        if not shown:
            continue
        answers = maker.tokenizer.decode(labels[labels != IGNORE]).replace("</s>", ",").split(",")
        said = {answer.strip() for answer in answers if answer.strip()}
        assert 2 <= len(answers) - 1 <= language.TURNS
        assert said <= {*DIGITS, *COLOURS, *ANSWERS_LARGER}
    assert hidden > 0


def test_every_level_gives_its_batches(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [replace(level, conversations=min(level.conversations, 2), probes=2) for level in language.LEVELS]
    monkeypatch.setattr(language, "LEVELS", levels)
    torch.manual_seed(0)
    model = new_language_model(tokenizer, 1)
    things = PatchWords(tokenizer).things.flatten()
    made = 0
    for made, batch in enumerate(language.batches(model, tokenizer, scenes=2, steps=10, seed=0), 1):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        assert loss.isfinite()
        if made == 1:  # of probes alone: their scenes train the words that they are told in
            assert model.get_input_embeddings().weight.grad[things].abs().sum() > 0
    assert made == 10


def test_scores_by_kind_and_size_and_what_guessing_gives() -> None:
    scenes = make_scenes("test", 30, 0, regions.SIDES)
    asked = [(question, scene) for scene, questions in scenes for question in questions]
    small = [regions.is_small(*pair) for pair in asked]
    assert 0 < sum(small) < len(small)
    right = [question.answer for question, _ in asked]
    only_large = ["" if is_small else answer for is_small, answer in zip(small, right, strict=True)]
    scores = report.score(scenes, {"box": only_large, "mask": right})
    assert (scores["small"], scores["masks"], scores["points"]) == (0.0, 1.0, None)
    assert scores["boxes"] == 1 - sum(small) / len(small)
    assert 0.2 < report.guess(scenes)[0] < 0.45


def test_table_has_the_best_first_and_marks_what_is_refused() -> None:
    head, *lines = report.table(ROWS).splitlines()
    assert [line.split()[0] for line in lines] == ["osprey", "text"]
    assert head.split()[:5] == ["encoder", "boxes", "masks", "points", "small"]
    assert lines[0].split()[:7] == ["osprey", "54.5", "54.0", "51.0", "54.5", "2", "0.23M"]
    assert lines[1].split()[:4] == ["text", "26.0", "-", "51.0"]
    assert "1.24 (0.69 to 14.20)" in lines[0]


def test_csv_keeps_every_number(tmp_path: Path) -> None:
    report.write_csv(tmp_path / "results.csv", ROWS)
    assert report.read_csv(tmp_path / "results.csv") == ROWS


def test_plot_and_page(tmp_path: Path) -> None:
    report.draw(tmp_path / "results.png", ROWS, 0.27)
    pixels = np.asarray(Image.open(tmp_path / "results.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    text = report.page(
        ROWS, (0.27, 0.3), (600, 90), {"clip": [0.81, 0.99], "regionclip": [0.95, 0.99], "projector": [0.7, 1.0]}
    )
    assert report.table(ROWS, markdown=True) in text
    for fact in (
        "600",
        "70.0 % of digits",
        "90 questions",
        "27.0",
        "1.5 %",
        '`{"position_grid": 28}`',
        "a processor",
        "14 to\n40 px",
    ):
        assert fact in text


def test_outside_a_checkout_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        compare_command, "__file__", str(tmp_path / "site-packages" / "pvit_ext" / "cli" / "compare.py")
    )
    assert cli.main(["compare"]) == 2
    assert "clone the repository" in capsys.readouterr().err


@pytest.mark.slow
def test_two_encoders_at_a_fiftieth_of_the_budget(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "--budget", "0.02", "--output", str(tmp_path), "--pages", str(tmp_path / "pages")]
    assert cli.main([*arguments, "--encoders", "osprey"]) == 0
    trained = tmp_path / "0.02" / "osprey" / "stage2" / "config.json"
    before = trained.stat().st_mtime_ns
    assert cli.main([*arguments, "--encoders", "text,osprey"]) == 0
    assert trained.stat().st_mtime_ns == before
    rows = {row["encoder"]: row for row in report.read_csv(tmp_path / "pages" / "results.csv")}
    assert set(rows) == {"osprey", "text"}
    assert rows["osprey"]["trained"] > rows["text"]["trained"] == 0
    assert all(0 <= row[name] <= 1 for row in rows.values() for name in ("boxes", "masks", "points"))
    assert rows["osprey"]["image_ms_p50"] > 0
    assert "osprey" in capfd.readouterr().out
    assert (tmp_path / "pages" / "README.md").read_text().count("| osprey |") == 1
    assert json.loads((tmp_path / "0.02" / "text" / "result.json").read_text())["stage1_rate"] is None
