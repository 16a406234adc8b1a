"""The quickstart's world, tokenizer, towers and phases; the whole run, scaled down, is marked slow."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from examples.quickstart import report, towers, world
from examples.quickstart.language import encode, render, text_turn, train_tokenizer
from examples.quickstart.phases import Phases
from pvit_ext import RegionConfig, build_region_encoder
from pvit_ext.data.records import load_records
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.prompt import REGION_TOKEN_INDEX

compat.prepare_training()

from llava import conversation as llava_conversation  # noqa: E402
from llava.train import train as llava_train  # noqa: E402


@pytest.fixture(scope="module")
def scenes() -> towers.Scenes:
    return world.make_scenes("train", 40, 0)


@pytest.fixture(scope="module")
def tokenizer(scenes: towers.Scenes, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    rng, folder = random.Random(0), tmp_path_factory.mktemp("tokenizer")
    turns = [text_turn(rng) for _ in range(300)]
    for how in ("image_only", "text_coordinates"):
        turns += [(q.render(how, scene.image.size), q.answer) for scene, questions in scenes for q in questions]
    train_tokenizer(folder, turns)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder, use_fast=False)


def test_splits_share_no_handwritten_sample() -> None:
    scans = {split: {scan.tobytes() for scan, _ in samples} for split, samples in world._samples().items()}
    assert not scans["train"] & scans["test"]
    assert sum(len(samples) for samples in world._samples().values()) == 1797
    assert {value for _, value in world._samples()["test"]} == set(range(10))


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_share_no_pixel_of_a_photograph(split: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A photograph whose left, held-out part is black and whose right part is white tells which part a piece is from.
    photo = np.zeros((427, 640, 3), np.uint8)
    photo[:, int(640 * world.TEST_COLUMNS) :] = 255
    monkeypatch.setattr(world, "_photographs", lambda: [Image.fromarray(photo)])
    rng = random.Random(0)
    pieces = [world._background(split, size, rng) for size in world.SIZES for _ in range(20)]
    assert {float(value) for piece in pieces for value in np.unique(piece)} == {127.5 if split == "train" else 0.0}


def test_boxes_hold_the_ink_in_its_colour(scenes: towers.Scenes) -> None:
    for scene, _ in scenes:
        pixels = np.asarray(scene.image).astype(int)
        for digit in scene.digits:
            x0, y0, x1, y1 = map(int, digit.box)
            assert 0 <= x0 < x1 <= scene.image.width
            assert 0 <= y0 < y1 <= scene.image.height
            near = np.abs(pixels - np.array(world.COLOURS[digit.colour])).max(2) < 12
            assert near[y0:y1, x0:x1].sum() >= 10


def test_answers_follow_from_the_boxes(scenes: towers.Scenes) -> None:
    kinds = set()
    for scene, questions in scenes:
        at = {digit.box: digit for digit in scene.digits}
        for question in questions:
            digits = [at[box] for box in question.boxes]
            kinds.add(question.kind)
            if question.kind == "digit":
                assert world.DIGITS.index(question.answer) == digits[0].value
            elif question.kind == "colour":
                assert question.answer == digits[0].colour
            else:
                larger = max(digits, key=lambda digit: digit.value)
                assert question.answer == ("the first" if larger is digits[0] else "the second")
    assert kinds == {"digit", "colour", "larger"}


def test_same_seed_same_scenes() -> None:
    first, again, other = (world.make_scenes("test", 3, seed) for seed in (0, 0, 1))
    assert [questions for _, questions in first] == [questions for _, questions in again]
    assert all(a.image.tobytes() == b.image.tobytes() for (a, _), (b, _) in zip(first, again, strict=True))
    assert [questions for _, questions in first] != [questions for _, questions in other]


def test_only_region_and_coordinates_say_which_region() -> None:
    question = world.Question("digit", world.ASK_DIGIT, ((16.0, 30.0, 40.0, 60.0),), "two")
    assert question.render("regions", (160, 120)) == "What digit is in <region>?"
    assert question.render("image_only", (160, 120)) == "What digit is in the region?"
    assert question.render("text_coordinates", (160, 120)) == "What digit is in [0.100,0.250,0.250,0.500]?"


def test_training_files_are_valid_records(scenes: towers.Scenes, tmp_path: Path) -> None:
    world.write_training_data(scenes[:5], tmp_path)
    for how in ("image_only", "text_coordinates", "regions"):
        records = load_records(str(tmp_path / f"{how}.json"), str(tmp_path / "images"))
        assert len(records) == 5
        for record, (_, questions) in zip(records, scenes[:5], strict=True):
            boxes = [box for question in questions for box in question.boxes] if how == "regions" else []
            assert [tuple(value for point in region.points for value in point) for region in record.regions] == boxes


@pytest.mark.parametrize("how", ["image_only", "text_coordinates", "regions"])
def test_llava_masks_exactly_the_answers(
    how: Any, tokenizer: Any, scenes: towers.Scenes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["v1"])
    monkeypatch.setattr(llava_train, "tokenizer_image_token", tokenizer_region_token)
    for scene, questions in scenes:
        record = world.record_of("x", scene, questions, how)
        coded = llava_train.preprocess([record["conversations"]], tokenizer, has_image=True)
        labels = coded["labels"][0]
        kept = tokenizer.decode(labels[labels >= 0])
        assert "".join(kept.split()) == "".join(question.answer + "</s>" for question in questions).replace(" ", "")
        assert int((coded["input_ids"] == REGION_TOKEN_INDEX).sum()) == len(record.get("regions", []))
    assert "mismatch" not in capsys.readouterr().out


def test_own_labels_equal_llavas(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tokenizer.is_fast:
        pytest.skip(
            "the quickstart encodes its own text with a fast tokenizer's offsets, which older transformers lack"
        )
    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["v1"])
    rng = random.Random(3)
    for _ in range(20):
        turns = [text_turn(rng) for _ in range(3)]
        turns[0] = ("<image>\n" + turns[0][0], turns[0][1])
        pairs = [("human", question) for question, _ in turns], [("gpt", answer) for _, answer in turns]
        source = [{"from": who, "value": text} for both in zip(*pairs, strict=True) for who, text in both]
        theirs = llava_train.preprocess([source], tokenizer, has_image=True)
        ids, labels = encode(tokenizer, turns)
        assert ids == theirs["input_ids"][0].tolist()
        assert labels == theirs["labels"][0].tolist()
        assert render(turns).count("USER: ") == 3


def test_region_tower_is_written_in_the_original_layout(scenes: towers.Scenes, tmp_path: Path) -> None:
    options = towers.REGION_OPTIONS
    encoder = build_region_encoder(RegionConfig(encoder_options=options))
    towers.unfold_batch_norms(encoder.backbone)
    for norm in (module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias)
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    encoder.eval()
    torch.save({"model": towers.original_layout(encoder.backbone)}, tmp_path / "tower.pth")
    loaded = build_region_encoder(RegionConfig(encoder_options=options))
    loaded.load_weights(str(tmp_path / "tower.pth"))
    pixels, boxes, _ = towers._region_sample(loaded, scenes[0][0])  # type: ignore[arg-type]
    index = torch.zeros(len(boxes), dtype=torch.long)
    with torch.no_grad():
        wanted, got = (part.encode(part.normalize(pixels[None]), boxes, index) for part in (encoder, loaded))
    assert torch.allclose(wanted, got, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_the_region_towers_norms_move_while_it_trains(
    scenes: towers.Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that counts as frozen stays in eval mode; in that mode the tower learned half of the digits."""
    monkeypatch.setattr(towers, "fit_tower", lambda _parameters, step, batches, *_: [float(step(next(batches))[0])])
    towers.train_region_tower(tmp_path / "tower.pth", scenes, steps=1)
    state = torch.load(tmp_path / "tower.pth")["model"]
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert means
    assert all(float(value.abs().max()) > 0 for value in means)


def test_patch_targets_lie_where_the_digits_are() -> None:
    digit = world.Digit(7, "red", (80.0, 0.0, 160.0, 60.0))  # right upper quarter of a wide image
    scene = world.Scene(Image.new("RGB", (160, 120)), (digit,))
    cells = towers.CLIP_SIZE // towers.PATCH
    grid = towers.at_patches(towers.attribute_targets(towers.image_processor(), scene)[None]).view(cells, cells, 2)
    seen = grid[..., 0] == 7
    centres = (torch.arange(cells) + 0.5) / cells
    # padded to 160 x 160 the box spans 1/2..1 across and 20/160..80/160 down
    across, down = (centres >= 0.5), (centres >= 0.125) & (centres < 0.5)
    assert torch.equal(seen, down[:, None] & across[None])
    assert seen.any()


def test_finished_phases_are_kept_and_later_ones_rerun(tmp_path: Path) -> None:
    calls: list[str] = []

    def phase(name: str) -> Any:
        return lambda: calls.append(name) or {"made": name}

    def run() -> list[Any]:
        phases = Phases(tmp_path, {"seed": 0})
        return [phases.run(name, phase(name)) for name in ("a", "b", "c")]

    assert run() == run() == [{"made": "a"}, {"made": "b"}, {"made": "c"}]
    assert calls == ["a", "b", "c"]
    (tmp_path / "done" / "b.json").unlink()
    run()
    assert calls == ["a", "b", "c", "b", "c"]
    with pytest.raises(ValueError, match="--fresh"):
        Phases(tmp_path, {"seed": 1})
    Phases(tmp_path, {"seed": 1}, fresh=True)
    assert not (tmp_path / "done").exists()


def test_interrupted_rerun_leaves_no_stale_marker(tmp_path: Path) -> None:
    phases = Phases(tmp_path, {})
    for name in ("a", "b"):
        phases.run(name, lambda: 1)
    (tmp_path / "done" / "a.json").unlink()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Phases(tmp_path, {}).run("a", stop)
    assert not list((tmp_path / "done").glob("*.json"))


def test_score_counts_exact_answers(scenes: towers.Scenes) -> None:
    right = [question.answer for _, questions in scenes for question in questions]
    assert set(report.score(scenes, [answer.title() + "." for answer in right]).values()) == {1.0}
    wrong = ["" if answer in world.COLOURS else answer for answer in right]
    scores = report.score(scenes, wrong)
    assert scores["colour"] == 0
    assert scores["digit"] == scores["larger"] == 1
    assert 0.7 < scores["all"] < 0.9


@pytest.mark.slow
def test_whole_quickstart_scaled_down(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

    from examples.quickstart.__main__ import main

    main(["--output", str(tmp_path / "run"), "--scale", "0.02"])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert all(0 <= results[arm] <= 1 for arm in ("image_only", "text_coordinates", "stage1", "stage2"))
    assert set(results["seconds"]) >= {"stage 1", "finetune stage2"}
    assert results["counts"]["questions"] >= 40
    assert Image.open(tmp_path / "run" / "scenes.png").size[0] > 1000
    assert "pvit-ext ask" in capfd.readouterr().out
    _, report_of_loading = LlavaLlamaForCausalLM.from_pretrained(tmp_path / "run" / "base", output_loading_info=True)
    assert not report_of_loading["missing_keys"]
    assert not report_of_loading["mismatched_keys"]
    with pytest.raises(SystemExit, match="are right after stage 2, --least is 101"):
        main(["--output", str(tmp_path / "run"), "--scale", "0.02", "--least", "101"])
