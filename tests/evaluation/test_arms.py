"""Which arms a checkpoint can take, and what is said of those that it was not trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pvit_ext
from pvit_ext.cli import main
from pvit_ext.config import RegionConfig
from pvit_ext.evaluation.arms import FEATURES, FEATURES_BOX, check_arm

PLAIN, WITH_BOX = RegionConfig("osprey"), RegionConfig("osprey", box_embedding=True)


@pytest.mark.parametrize(
    ("asked", "config", "remark"),
    [
        (None, WITH_BOX, None),
        (FEATURES, PLAIN, None),
        (FEATURES_BOX, WITH_BOX, None),
        (FEATURES, WITH_BOX, "m was trained with an embedding of boxes, which the arm 'features' takes away."),
    ],
)
def test_region_features_with_and_without_the_box(asked: str | None, config: RegionConfig, remark: str | None) -> None:
    assert check_arm(asked, config, "m") == (asked or "regions", remark)


@pytest.mark.parametrize(
    ("asked", "config", "said"),
    [
        (FEATURES_BOX, PLAIN, "m has no embedding of boxes"),
        (FEATURES, None, "not trained for the arm 'features'"),
        (FEATURES, RegionConfig("text"), "m has no region tokens, but the arm 'text': --arm features cannot apply"),
    ],
)
def test_arms_that_a_checkpoint_cannot_take(asked: str, config: RegionConfig | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_arm(asked, config, "m")


@pytest.mark.parametrize("given", [("--model", "m"), ("--endpoint-model", "far", "--endpoint", "http://localhost:1")])
def test_more_regions_than_colours_are_said_before_anything_is_asked(
    given: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten regions by the history, of ten questions; the marks have nine colours. Equal regions share one."""
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    boxes = [[number, 2, number + 9, 20] for number in range(10)]
    records = [talk("many", boxes), talk("equal", boxes[:5] * 2)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llava_llama"}')
    options = ["--data", "data.jsonl", "--image-folder", ".", "--out", "out", "--arm", "marks", "--set", "history=yes"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["eval", "own", *options, *given]) == 2
    told = capsys.readouterr().err
    assert "data.jsonl line 1 (id 'many')" in told
    assert "image 0 has 10 regions" in told
    assert "line 2" not in told


def talk(id: str, boxes: list[list[int]]) -> dict[str, Any]:
    turns = [
        {"from": who, "value": text}
        for number in range(len(boxes))
        for who, text in (
            ("human", "What is in <region>?" if number else "<image>\nWhat is in <region>?"),
            ("gpt", "dog"),
        )
    ]
    return {"id": id, "image": "0.png", "conversations": turns, "regions": boxes}


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["llava", "transformers"], indirect=True)
def test_features_is_what_the_checkpoint_says_without_its_box_embedding(
    checkpoint: Path, evaluate: Any, tmp_path: Path
) -> None:
    """A box embedding is given to a checkpoint without one: the arm takes away just that."""
    from dataclasses import replace

    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(checkpoint), device="cpu")
    config = replace(model.region_config, box_embedding=True)
    state = {name: value.clone() for name, value in model.region_module.state_dict().items()}
    pvit_ext.attach(model, config, processor=None if "llava" in str(checkpoint) else processor)
    model.region_module.load_state_dict(state, strict=False)
    model.region_module.region_projector.box_embedding.weight.data.normal_(std=9.0)
    model.save_pretrained(tmp_path / "box")
    (tokenizer if "llava" in str(checkpoint) else processor).save_pretrained(tmp_path / "box")
    options = ("--max-new-tokens", 4, "--device", "cpu")

    def answers(name: str, *more: object) -> str:
        evaluate(*options, *more, out=name)
        return (tmp_path / name / "predictions.jsonl").read_text().partition("\n")[2]

    want = answers("plain", "--model", checkpoint)
    assert answers("features", "--model", tmp_path / "box", "--arm", "features") == want
    whole = answers("regions", "--model", tmp_path / "box")
    assert answers("features-box", "--model", tmp_path / "box", "--arm", "features-box") == whole != want
